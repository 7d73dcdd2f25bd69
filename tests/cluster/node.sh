#!/bin/bash
# Process 1 of a small container: its own mounts, host names, /tmp, /root and /dev/shm.
# node.sh FOLDER NAME SHARED VISIBLE...: the visible folders are seen under their own paths.
set -eu
folder=$1 name=$2 shared=$3
shift 3
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=1777,size=2g tmpfs /dev/shm
for path in "$@"; do
  mkdir -p "$folder$path"
  mount --bind "$path" "$folder$path"
done
mount --bind "$shared" /mnt
mount --bind "$folder/hosts" /etc/hosts
mount --rbind "$folder/root" /root
mount --rbind "$folder/tmp" /tmp
hostname "$name"
mkdir -p /run/sshd
export HOME=/root
cd /root
if [ -f /root/sshd_config ]; then exec /usr/sbin/sshd -D -e -f /root/sshd_config; fi
exec sleep infinity
