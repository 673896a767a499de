#!/bin/sh
# First stage: the compiler, and pip and hatchling in an environment of their own. Nothing of it reaches the last stage.
set -eu
cd "$(dirname "$0")"
. ./common.sh
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(packages build-packages.txt) > /dev/null
python3 -m venv /build
/build/bin/pip install --quiet --require-hashes --only-binary :all: -r build.lock
