#!/bin/bash
# First process of a node, still on the machine's own files: lays out the node's, moves into them and becomes its init.
# boot.sh FOLDER SHARED-TREE HOSTNAME CGROUP…: its own group in each hierarchy, or the one of cgroup version 2
set -eu
folder=$1 shared=$2 name=$3
if [ -z "${JOINED-}" ]; then
  for group in "${@:4}"; do echo 0 >"$group/cgroup.procs"; done # ourselves
  JOINED=1 exec unshare --cgroup "$0" "$@"
fi
shift 3
read -r pid _ </proc/self/stat # /proc is the machine's: the pid as the machine sees it
echo "$pid" >"$folder/pid.new"
mv "$folder/pid.new" "$folder/pid"

mount -t overlay overlay -o "lowerdir=$shared,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
case $1 in
*/cgroup/*/*/*) # version 1: …/cgroup/HIERARCHY/LAB/NODE
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  for group; do
    hierarchy=$(basename "${group%/*/*}")
    mkdir "sys/fs/cgroup/$hierarchy"
    case $hierarchy in systemd) options=none,name=systemd ;; *) options=$hierarchy ;; esac
    mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$hierarchy"
  done
  ;;
*) # version 2: controllers are handed down only by a group that holds no process
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mkdir sys/fs/cgroup/init
  echo 0 >sys/fs/cgroup/init/cgroup.procs
  sed 's/[^ ][^ ]*/+&/g' sys/fs/cgroup/cgroup.controllers >sys/fs/cgroup/cgroup.subtree_control
  ;;
esac

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
mount -o loop,noatime "$folder/docker.img" var/lib/docker # Docker's overlays cannot lie on an overlay
hostname "$name"
pivot_root . .outside
umount -l /.outside
rmdir /.outside
exec env -i PATH="$PATH" HOME=/root /sbin/init
