#!/bin/sh
# What this container is, its folder shows.
home="${FOEDUS_HOME:-/var/lib/foedus}"
if [ -f "$home/coordinator.json" ]; then
    exec foedus coordinator health --home "$home"
fi
exec foedus site health "$home"
