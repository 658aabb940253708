#!/bin/sh
### BEGIN INIT INFO
# Provides:          docker
# Required-Start:    $local_fs $network
# Required-Stop:     $local_fs $network
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Docker, without the raised limits of Debian's script, which a sandbox may forbid
### END INIT INFO
pid_file=/run/docker-lab.pid

running() { start-stop-daemon --status --pidfile "$pid_file"; }
start() {
  start-stop-daemon --start --oknodo --background --make-pidfile --pidfile "$pid_file" --no-close \
    --startas /usr/sbin/dockerd >>/var/log/docker.log 2>&1
  timeout 90 sh -c 'until docker version; do sleep 0.2; done' >/dev/null 2>&1 # as under systemd: started means it answers
}
stop() { start-stop-daemon --stop --oknodo --retry TERM/60/KILL/5 --pidfile "$pid_file" --remove-pidfile; }

case $1 in
  start) start ;;
  stop) stop ;;
  restart | force-reload) stop && start ;;
  reload) start-stop-daemon --stop --signal HUP --pidfile "$pid_file" ;;
  status) if running; then echo "docker is running"; else echo "docker is stopped"; exit 3; fi ;;
  *) echo "Usage: $0 start|stop|restart|force-reload|reload|status" >&2; exit 2 ;;
esac
