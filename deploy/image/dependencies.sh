#!/bin/sh
# Layer `dependencies`: the wheels of product.lock, each checked against its hash.
set -eu
cd "$(dirname "$0")"
. ./common.sh
out=/out/dependencies
rm -rf $out
mkdir -p $out/$site
/build/bin/pip install --quiet --require-hashes --only-binary :all: --no-deps --no-compile \
  --report /out/wheels.json --target $out/$site -r product.lock
rm -rf $out/$site/bin

# botocore describes 400 services. What hands out credentials (sts, sso, sso-oidc, signin) stays beside S3.
for service in $out/$site/botocore/data/*/; do
  case $(basename "$service") in s3 | sts | sso | sso-oidc | signin) ;; *) rm -r "$service" ;; esac
done
packages trim.txt | while read -r pattern; do
  # A pattern that finds nothing has outlived its reason.
  ls -d $out/$site/$pattern > /dev/null || { echo "error: trim.txt names $pattern, which no wheel has"; exit 1; }
  rm -r $out/$site/$pattern
done
# Tests, and what compiled modules were made of.
find $out/$site -type d \( -name tests -o -name test -o -name include \) -prune -exec rm -r {} +
find $out/$site \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.proto' \) -delete
compile $out $site
finish $out
