#!/bin/bash
# First process of a node, still on the machine's own files: lays out the node's, moves into them and becomes its init.
# boot.sh FOLDER SHARED-TREE HOSTNAME CGROUP-HIERARCHY…
set -eu
folder=$1 shared=$2 name=$3
shift 3
read -r pid _ </proc/self/stat # /proc is the machine's: the pid as the machine sees it
echo "$pid" >"$folder/pid.new"
mv "$folder/pid.new" "$folder/pid"

mount -t overlay overlay -o "lowerdir=$shared,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ $# = 0 ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mkdir sys/fs/cgroup/init # only leaves may hold processes once controllers are handed down
  echo "$pid" >"$folder/root/sys/fs/cgroup/init/cgroup.procs" || echo 0 >sys/fs/cgroup/init/cgroup.procs
  sed 's/[^ ]*/+&/g' sys/fs/cgroup/cgroup.controllers >sys/fs/cgroup/cgroup.subtree_control
else
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
fi
for hierarchy; do
  mkdir "sys/fs/cgroup/$hierarchy"
  case $hierarchy in systemd) options=none,name=systemd ;; *) options=$hierarchy ;; esac
  mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$hierarchy"
done

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net
for device in null zero full random urandom tty fuse net/tun; do
  if [ -e "/dev/$device" ]; then cp -a "/dev/$device" "dev/$device"; fi
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${stream%:*}" "dev/${stream#*:}"; done

mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/sshd var/lib/docker .outside
mount --bind "$folder/docker" var/lib/docker # Docker's overlays cannot lie on an overlay
hostname "$name"
pivot_root . .outside
umount -l /.outside
rmdir /.outside
exec env -i PATH="$PATH" HOME=/root /sbin/init
