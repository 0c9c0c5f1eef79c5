#!/usr/bin/env bash
# System packages the tests need. As root they are installed; otherwise the line to run is printed and the tests that need
# them are reported as not run.
set -euo pipefail
missing=()
command -v git >/dev/null || missing+=(git)
command -v npm >/dev/null || missing+=(npm)
PATH="$PATH:/usr/sbin"
command -v squid >/dev/null || missing+=(squid)
command -v tinyproxy >/dev/null || missing+=(tinyproxy)
command -v nginx >/dev/null || missing+=(nginx-light)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v kubectl >/dev/null || missing+=(kubernetes-client)
command -v gnome-keyring-daemon >/dev/null || missing+=(gnome-keyring)
command -v dbus-run-session >/dev/null || missing+=(dbus)
# What install.sh is tested with.
for shell in dash busybox zsh fish curl; do
  command -v "$shell" >/dev/null || missing+=("$shell")
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}" >&2
  apt-get update -qq >&2
  # RUNLEVEL: the tests start their own proxies; those of the packages must not run.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates >&2
  for proxy in squid tinyproxy nginx haproxy; do
    case " ${missing[*]} " in *" $proxy"*) systemctl disable --quiet --now "$proxy" >/dev/null 2>&1 || true ;; esac
  done
else
  echo "some tests will not run; as root: apt-get install ${missing[*]}" >&2
fi
