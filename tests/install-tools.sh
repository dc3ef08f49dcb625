#!/bin/sh
# Debian packages the tests use as independent judges. Without root or apt the tests that need them are
# skipped with the reason printed, but never in CI.
set -eu
need=""
have() { command -v "$1" >/dev/null 2>&1; }
have storescu || need="$need dcmtk"
have Orthanc || need="$need orthanc"
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || need="$need orthanc-dicomweb"
have chromium || have chromium-browser || need="$need chromium"
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || need="$need postgresql"
[ -x /usr/sbin/slapd ] || need="$need slapd"
[ -x /usr/sbin/rsyslogd ] || need="$need rsyslog"
ls /usr/lib/*/rsyslog/lmnsd_gtls.so >/dev/null 2>&1 || need="$need rsyslog-gnutls"
[ -z "$need" ] && exit 0
if [ "$(id -u)" != 0 ] || ! have apt-get; then
  echo "tests: not installed and not installable here:$need (their tests are skipped)"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 words are package names
apt-get install -y -qq --no-install-recommends $need >/dev/null
