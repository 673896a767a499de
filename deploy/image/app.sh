#!/bin/sh
# Layer `app`: the product's wheel, with all natives or not at all, its command, and the list of everything in the image.
set -eu
cd "$(dirname "$0")"
. ./common.sh
out=/out/app
rm -rf $out /tmp/wheels
mkdir -p $out/$site $out/usr/local/bin $out/usr/share/kube-cache
export KUBE_CACHE_NATIVES=all SOURCE_DATE_EPOCH=315532800
/build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /tmp/wheels ../..
/build/bin/pip install --quiet --no-deps --no-index --no-compile --find-links /tmp/wheels --target $out/$site kube-cache
rm -rf $out/$site/bin
cat > $out/usr/local/bin/kube-cache <<EOF
#!/usr/bin/python3
from cli.main import main

main()
EOF
chmod 755 $out/usr/local/bin/kube-cache
compile $out $site
/usr/bin/python3 sbom.py /out/wheels.json /out/base /out/dependencies /out/app > $out/usr/share/kube-cache/sbom.cdx.json
finish $out
