#!/bin/sh
# Layer `base`: unpack the packages of the last stage into /out/base, without a package manager.
set -eu
cd "$(dirname "$0")"
. ./common.sh
out=/out/base
rm -rf $out /tmp/debs
mkdir -p $out /tmp/debs
for name in bin lib sbin; do mkdir -p $out/usr/$name; ln -s usr/$name $out/$name; done
case $(dpkg --print-architecture) in amd64) mkdir -p $out/usr/lib64; ln -s usr/lib64 $out/lib64 ;; esac

lists=$PWD
(cd /tmp/debs && apt-get download -qq -o APT::Sandbox::User=root $(packages "$lists/packages.txt"))
mkdir -p $out/var/lib/dpkg/status.d
for deb in /tmp/debs/*.deb; do
  # Not --extract, which puts a folder in the place of a link like /lib.
  dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C $out
  name=$(dpkg-deb --field "$deb" Package)
  # A file for each package: where scanners look in an image without dpkg.
  { dpkg-deb --field "$deb"; echo "SHA256: $(sha256sum < "$deb" | cut -d' ' -f1)"; } > "$out/var/lib/dpkg/status.d/$name"
done
rm -rf /tmp/debs

# What the packages' scripts would have done, as far as it is needed.
cat $(find $out/usr/share/ca-certificates -name '*.crt' | sort) > $out/etc/ssl/certs/ca-certificates.crt
cat > $out/etc/passwd <<EOF
root:x:0:0:root:/nonexistent:/nonexistent
kube-cache:x:65532:65532:kube-cache:/nonexistent:/nonexistent
EOF
cat > $out/etc/group <<EOF
root:x:0:
kube-cache:x:65532:
EOF
echo 'hosts: files dns' > $out/etc/nsswitch.conf

# Manuals, translations, what only a shell runs; modules whose libraries are left out. Copyrights stay.
find $out/usr/share/doc -mindepth 2 ! -name copyright ! -type d -delete
find $out/usr/share/doc -type d -empty -delete
rm -rf $out/usr/share/man $out/usr/share/locale $out/usr/share/info $out/usr/share/lintian $out/usr/share/gcc \
  $out/usr/share/bug $out/usr/share/base-files $out/usr/share/perl5 $out/usr/share/binfmts $out/usr/share/python3 \
  $out/usr/lib/*/gconv $out/usr/lib/*/audit $out/usr/sbin $out/sbin $out/usr/share/dict \
  $out/etc/profile.d $out/etc/update-motd.d $out/etc/skel $out/etc/apt $out/etc/ca-certificates $out/root/.bashrc $out/root/.profile
find $out/usr/bin -mindepth 1 ! -name 'python3*' -delete
rm -rf $out/usr/lib/python3.11/lib2to3 $out/usr/lib/python3.11/pydoc_data $out/usr/lib/python3.11/idlelib
for module in readline _curses _curses_panel nis _dbm _gdbm _crypt; do
  rm -f $out/usr/lib/python3.11/lib-dynload/$module.cpython-*.so
done
# The linker's own folders are found without a cache, which would be of this machine.
rm -f $out/etc/ld.so.cache
mkdir -p $out/tmp && chmod 1777 $out/tmp
compile $out usr/lib/python3.11
finish $out
