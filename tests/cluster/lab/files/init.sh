#!/bin/bash
# A node's init: starts the enabled services, then reaps orphans for ever.
for service in /etc/rc2.d/S*; do "$service" start; done
while :; do
  sleep infinity &
  wait
done
