#!/bin/sh
# Installs mcpbridge below your home directory, or updates, rolls back or removes it. Never asks for root, writes nothing
# that was not verified by SHA-256 first. Any POSIX shell: curl -fsSL .../install.sh | sh -s -- --help
# The braces around everything make a download that was cut short a syntax error instead of half a program.
{

# Where releases lie: to be filled in by a release build, empty in the source tree.
default_base_url=''

usage() {
  cat <<'END'
usage: install.sh [--base-url URL | --from PATH] [OPTIONS]

examples:
  install.sh --base-url http://127.0.0.1:8000          the latest release that is served there
  install.sh --base-url file:///mnt/releases --version 0.1.0
  install.sh --from dist                               a directory of a release, without network
  install.sh --from mcpbridge-linux-x86_64.pyz --sha256 HEX
  install.sh --uninstall                               remove what was installed; configuration stays

options:
  --base-url URL       https://, file:// or, on this machine, http:// (else MCPBRIDGE_BASE_URL)
  --from PATH          a release directory, or one file with FILE.sha256 or SHA256SUMS beside it
  --sha256 HEX         the digest that the file must have
  --version V          a certain release instead of the latest (else MCPBRIDGE_VERSION)
  --prefix DIR         install into DIR/bin and DIR/share/mcpbridge
  --bin-dir DIR        directory of the commands, default ~/.local/bin (else MCPBRIDGE_BIN_DIR)
  --data-dir DIR       directory of the program, default ~/.local/share/mcpbridge
  --no-modify-path     leave the shell's start-up file alone (else MCPBRIDGE_NO_MODIFY_PATH=1)
  --no-completions     leave out what bash, zsh or fish offers after mcpbridge (also left out with --prefix)
  --check              only say whether there is a newer release: exit 0 no, 1 yes
  --rollback           go back to the version before
  --uninstall          remove what the receipt lists; with --purge configuration, logs and cache too
  --dry-run            say what would be done
  -q, --quiet          only errors
  -h, --help           this text

MCPBRIDGE_PYTHON names the Python to use, 3.11 or newer.
exit status: 0 done, 64 usage, 65 checksum or data wrong, 66 no such file, 69 not available here, 73 cannot write
END
}

say() { [ -n "$quiet" ] || printf '%s\n' "$*" >&2; }

# die STATUS CAUSE [NEXT STEP]...
die() {
  code=$1
  printf 'mcpbridge-install: error: %s\n' "$2" >&2
  shift 2
  for line; do printf '  %s\n' "$line" >&2; done
  exit "$code"
}

# 'single quoted' for a POSIX shell
quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac; }

# fact NAME [FILE]: the first such line of the receipt, without its name
fact() { [ ! -f "${2:-$receipt}" ] || sed -n "s/^$1 //p" "${2:-$receipt}" | sed -n 1p; }

# The Python to run on: prints "MINOR BITS LIBC GLIBC PATH". A virtual environment may go away, its base stays.
probe='
import os, struct, sys, ssl, zlib, zipfile
assert sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
path = sys.executable if sys.prefix == sys.base_prefix else getattr(sys, "_base_executable", sys.executable)
try:
    libc, release = os.confstr("CS_GNU_LIBC_VERSION").split()
except (AttributeError, ValueError, OSError):
    libc, release = "other", "0.0"
print("%d.%d" % sys.version_info[:2], 8 * struct.calcsize("P"), libc, release, os.path.abspath(path))
'

find_python() {
  for candidate in "${MCPBRIDGE_PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3; do
    [ -n "$candidate" ] || continue
    if found=$("$candidate" -I -c "$probe" 2>/dev/null) && [ -n "$found" ]; then
      python_version=${found%% *} found=${found#* }
      bits=${found%% *} found=${found#* }
      libc=${found%% *} found=${found#* }
      glibc=${found%% *} python=${found#* }
      return 0
    fi
    [ "$candidate" != "${MCPBRIDGE_PYTHON:-}" ] ||
      die 69 "MCPBRIDGE_PYTHON=$candidate is no CPython 3.11 or newer with ssl and zlib"
  done
  die 69 'no Python 3.11 or newer with ssl and zlib on PATH' \
    'install one (Debian 12: apt-get install python3; macOS: brew install python), or name it by MCPBRIDGE_PYTHON'
}

platforms='Linux (glibc 2.28 or newer, or musl) on x86_64 and aarch64, macOS on x86_64 and arm64; 64-bit CPython 3.11 or newer'

# Sets artifact, the name of the file for this machine.
find_platform() {
  system=$(uname -s) machine=$(uname -m)
  case $machine in x86_64 | amd64) arch=x86_64 ;; aarch64 | arm64) arch=aarch64 ;; *) arch= ;; esac
  case $system in
    Linux) os=linux ;;
    Darwin)
      os=macos
      [ "$arch" != aarch64 ] || arch=arm64
      ;;
    *) os= ;;
  esac
  if [ -z "$os" ] || [ -z "$arch" ]; then
    die 69 "there is no mcpbridge for $system on $machine" "supported: $platforms"
  fi
  [ "$bits" = 64 ] || die 69 "$python is a $bits-bit Python" "supported: $platforms"
  if [ "$os" = linux ]; then
    if [ "$libc" != glibc ]; then
      os=linux-musl
    elif [ "${glibc%%.*}" -lt 2 ] || { [ "${glibc%%.*}" -eq 2 ] && [ "${glibc#*.}" -lt 28 ]; }; then
      die 69 "glibc $glibc is too old" "supported: $platforms"
    fi
  fi
  artifact=mcpbridge-$os-$arch.pyz
}

# Only TLS, a file, or this very machine: whoever can change the download can change its checksums.
check_url() {
  case $1 in
    https://?* | file:///*) return 0 ;;
    http://*) ;;
    *) die 64 "--base-url $1: an https:// or file:/// address is needed" ;;
  esac
  authority=${1#http://}
  authority=${authority%%/*}
  case $authority in
    localhost | 127.0.0.1 | '[::1]') return 0 ;;
    localhost:* | 127.0.0.1:* | '[::1]:'*)
      case ${authority##*:} in '' | *[!0-9]*) ;; *)
        case ${authority%:*} in localhost | 127.0.0.1 | '[::1]') return 0 ;; esac
        ;;
      esac
      ;;
  esac
  die 64 "--base-url $1: plain http is only for this machine (localhost, 127.0.0.1, [::1])" 'use https:// or file:///'
}

fetcher='
import shutil, sys, urllib.error, urllib.request
class Guarded(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, target):
        if not (request.full_url.startswith("https://") and target.startswith("https://")):
            raise urllib.error.URLError("redirected to " + target)
        return super().redirect_request(request, file, code, message, headers, target)
local = [] if sys.argv[1].startswith("https://") else [urllib.request.ProxyHandler({})]
try:
    with urllib.request.build_opener(Guarded, *local).open(sys.argv[1], timeout=60) as answer, open(sys.argv[2], "wb") as file:
        shutil.copyfileobj(answer, file)
except OSError as error:
    sys.exit(str(error))
'

# fetch URL FILE: by curl where it is, else by Python. False with the cause in $tmp/why.
fetch() {
  case $1 in
    file://*) cp "${1#file://}" "$2" 2>"$tmp/why" ;;
    *)
      if ! command -v curl >/dev/null 2>&1; then
        "$python" -I -c "$fetcher" "$1" "$2" 2>"$tmp/why"
      elif [ "${1#https://}" != "$1" ]; then
        curl --proto '=https' --proto-redir '=https' -fsSL --retry 3 --connect-timeout 15 --speed-limit 1000 --speed-time 60 \
          -o "$2" "$1" 2>"$tmp/why"
      else
        curl --proto '=http' --noproxy '*' -fsS --connect-timeout 15 -o "$2" "$1" 2>"$tmp/why"
      fi
      ;;
  esac
}

digest_of() {
  "$python" -I -c 'import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())' "$1"
}

# A version or part of a path: no slash, no blank, no leading dot or dash.
check_version() {
  case $1 in
    '' | [.-]* | *[!A-Za-z0-9._+-]*) die "$2" "$3: '$1' is no version" ;;
  esac
}

check_digest() {
  sum=$(printf '%s' "$1" | tr 'ABCDEF' 'abcdef')
  case $sum in *[!0-9a-f]*) sum= ;; esac
  [ ${#sum} -eq 64 ] || die "$2" "$3: not 64 hexadecimal digits"
}

# find_sum FILE NAME: sets sum from a file of sha256sum's form; empty when the name is not in it.
find_sum() {
  sum=
  while read -r value name; do
    [ "${name#\*}" = "$2" ] || continue
    [ -z "$sum" ] || [ "$sum" = "$value" ] || die 65 "$1 has two digests for $2"
    sum=$value
  done <"$1"
  [ -z "$sum" ] || check_digest "$sum" 65 "the digest of $2 in $1"
}

# Sets version (empty for a single file), sum, and where the file comes from: local_file or url.
resolve() {
  local_file='' url='' sum=''
  if [ -n "$from" ] && [ -f "$from" ]; then
    local_file=$from
    case ${from##*/} in
      mcpbridge-*.pyz) [ "${from##*/}" = "$artifact" ] || die 69 "${from##*/} is not for this machine, which needs $artifact" ;;
    esac
    if [ -z "$sha256" ] && [ -f "$from.sha256" ]; then
      read -r sum rest <"$from.sha256" || :
      check_digest "$sum" 65 "$from.sha256"
    elif [ -z "$sha256" ] && [ -f "$(dirname "$from")/SHA256SUMS" ]; then
      find_sum "$(dirname "$from")/SHA256SUMS" "${from##*/}"
    fi
    [ -n "$sum$sha256" ] || die 66 "no digest for $from" "give --sha256 HEX, or put $from.sha256 or SHA256SUMS beside it"
  elif [ -n "$from" ] && [ ! -d "$from" ]; then
    die 66 "--from $from: no such file or directory"
  elif [ -n "$from" ] && [ ! -f "$from/latest.txt" ]; then
    [ -f "$from/SHA256SUMS" ] || die 66 "--from $from: neither latest.txt nor SHA256SUMS is in it"
    local_file=$from/$artifact
    in_release "$from/SHA256SUMS" "$from"
    [ -f "$local_file" ] || die 66 "$local_file is in SHA256SUMS, but not there"
  else
    [ -z "$from" ] || base_url=file://$from
    [ -n "$base_url" ] || die 64 'where from? This install.sh belongs to no release' \
      '--base-url URL names the place that serves releases, --from PATH a directory or file (scripts/build.sh makes dist/mcpbridge)'
    check_url "$base_url"
    base_url=${base_url%/}
    if [ -z "$version" ]; then
      fetch "$base_url/latest.txt" "$tmp/latest.txt" || not_fetched "$base_url/latest.txt"
      version=$(sed -n 1p "$tmp/latest.txt" | tr -d ' \t\r')
      check_version "$version" 65 "$base_url/latest.txt"
    fi
    fetch "$base_url/$version/SHA256SUMS" "$tmp/SHA256SUMS" || not_fetched "$base_url/$version/SHA256SUMS"
    in_release "$tmp/SHA256SUMS" "$base_url/$version"
    url=$base_url/$version/$artifact
  fi
  if [ -n "$sha256" ]; then check_digest "$sha256" 64 --sha256; fi
}

in_release() {
  find_sum "$1" "$artifact"
  [ -n "$sum" ] || die 69 "the release at $2 has no $artifact" "it has: $(sed -n 's/.*[ *]\(mcpbridge-[^ ]*\.pyz\)$/\1/p' "$1" | tr '\n' ' ')"
}

not_fetched() { die 69 "cannot fetch $1: $(sed -n '1p' "$tmp/why")" 'check the address and --version'; }

# Says whether DIR exists or could be made, and be written.
check_writable() {
  place=$1
  while [ ! -e "$place" ] && [ ! -L "$place" ] && [ "$place" != / ]; do place=$(dirname "$place"); done
  if [ ! -d "$place" ] || [ ! -w "$place" ]; then
    die 73 "cannot write $1 ($place is not a directory that you may write)" 'choose another place by --prefix DIR'
  fi
}

names='mcpbridge mcp-router mcp-gateway'
launcher_mark='# mcpbridge launcher, written by install.sh'

ours() { [ -f "$1" ] && sed -n 2p "$1" 2>/dev/null | grep -q "^$launcher_mark"; }

check_places() {
  check_writable "$data"
  check_writable "$bin"
  for name in $names; do
    if { [ -e "$bin/$name" ] || [ -L "$bin/$name" ]; } && ! ours "$bin/$name"; then
      die 73 "$bin/$name exists and was not made by install.sh" 'remove it, or choose another place by --bin-dir DIR'
    fi
  done
}

unpacker='
import compileall, importlib.util, os, shutil, sys, zipimport
archive, target, data, artifact, digest, expected = sys.argv[1:]
try:
    spec = zipimport.zipimporter(archive).find_spec("start")
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    start.unpack(archive, target)
    compileall.compile_dir(target, quiet=2, workers=0)
    sys.path.insert(0, os.path.join(target, "site-packages"))
    import mcpbridge
    import mcpbridge.gateway, mcpbridge.router
except Exception as error:
    sys.exit("%s: %s" % (type(error).__name__, error))
release = mcpbridge.__version__
if expected not in ("", release):
    print("the release called %s holds version %s" % (expected, release), file=sys.stderr)
    sys.exit(65)
with open(os.path.join(target, "facts"), "w", encoding="utf-8") as facts:
    facts.write("version %s\nartifact %s\ndigest %s\n" % (release, artifact, digest))
shutil.copyfile(archive, os.path.join(target, "mcpbridge.pyz"))
os.chmod(os.path.join(target, "mcpbridge.pyz"), 0o755)
os.chmod(target, 0o755)
final = os.path.join(data, "versions", "%s-%s" % (release, digest[:8]))
try:
    os.rename(target, final)
except OSError:
    if not os.path.isfile(os.path.join(final, "facts")):
        raise
    shutil.rmtree(target)  # another installer was faster
print(release)
'

# Fetches, verifies and unpacks. Nothing is written outside $tmp before the digest is right.
bring() {
  if [ -n "$url" ]; then
    say "downloading $url"
    local_file=$tmp/$artifact
    fetch "$url" "$local_file" || not_fetched "$url"
  fi
  got=$(digest_of "$local_file")
  if [ "$got" != "$sum" ]; then
    die 65 "${local_file##*/} is not the file it should be. Nothing was installed." "expected sha256 $sum" "got      sha256 $got"
  fi
  say "verified sha256 $sum"
  mkdir -p "$data/versions" || die 73 "cannot write $data"
  fresh=$(mktemp -d "$data/versions/.new-XXXXXX") || die 73 "cannot write $data/versions"
  say "unpacking for $python (Python $python_version)"
  failed=0
  version=$("$python" -I -X utf8 -c "$unpacker" "$local_file" "$fresh" "$data" "$artifact" "$sum" "$version" 2>"$tmp/why") || failed=$?
  [ "$failed" != 65 ] || die 65 "$(sed -n '$p' "$tmp/why"). Nothing was installed."
  [ "$failed" = 0 ] || die 69 "it does not run on $python (Python $python_version): $(sed -n '$p' "$tmp/why")" \
    'Nothing was installed. Another Python can be named by MCPBRIDGE_PYTHON'
  fresh=
}

write_launcher() {
  start=$data/versions/$current/start.py
  cat >"$bin/.$1.$$" <<END
#!/bin/sh
$launcher_mark
[ -x $(quoted "$python") ] || { echo $(quoted "$1: $python is gone; run install.sh again") >&2; exit 69; }
MCPBRIDGE_ARGV0=$1
export MCPBRIDGE_ARGV0
exec $(quoted "$python") -I -X utf8 $(quoted "$start") "\$@"
END
  chmod 755 "$bin/.$1.$$"
  mv -f "$bin/.$1.$$" "$bin/$1"
}

# The shell's start-up file, where there is one that we may add to.
find_profile() {
  case ${shell##*/} in
    zsh) profile=${ZDOTDIR:-$HOME}/.zshrc ;;
    bash) if [ "$(uname -s)" = Darwin ]; then profile=$HOME/.bash_profile; else profile=$HOME/.bashrc; fi ;;
    fish) profile=${XDG_CONFIG_HOME:-$HOME/.config}/fish/conf.d/mcpbridge.fish ;;
    *) profile=$HOME/.profile ;;
  esac
}

# without_block FILE: its text without our block; a block whose end is missing is left alone.
without_block() {
  awk '
    $0 == "# >>> mcpbridge >>>" { if (held != "") print held; held = $0; next }
    held != "" { held = held "\n" $0; if ($0 == "# <<< mcpbridge <<<") held = ""; next }
    { print }
    END { if (held != "") print held }' "$1"
}

print_block() {
  echo '# >>> mcpbridge >>>'
  case ${shell##*/} in
    fish) printf "fish_add_path -g '%s'\n" "$(printf '%s' "$bin" | sed "s/[\\\\']/\\\\&/g")" ;;
    *)
      printf 'case ":$PATH:" in *:%s:*) ;; *) export PATH=%s:"$PATH" ;; esac\n' "$(quoted "$bin")" "$(quoted "$bin")"
      ;;
  esac
  echo '# <<< mcpbridge <<<'
}

# Adds or renews the block; says by hand what could not be written. Prints the receipt's line.
write_block() {
  find_profile
  block=block
  if [ -n "$(fact block-created)" ] || [ ! -e "$profile" ]; then block='block-created'; fi
  : >"$tmp/profile"
  if [ -e "$profile" ]; then without_block "$profile" >"$tmp/profile"; fi
  print_block >>"$tmp/profile"
  if { [ -e "$profile" ] && cmp -s "$tmp/profile" "$profile"; } ||
    { mkdir -p "$(dirname "$profile")" && cat "$tmp/profile" >"$profile"; } 2>/dev/null; then
    echo "$block $profile"
  else
    say "cannot write $profile; add to your shell's start-up file:"
    say "$(print_block)"
  fi
}

write_receipt() {
  {
    echo '# receipt of an installation of mcpbridge, written by install.sh; one fact a line'
    printf '%s\n' "version $version" "current $current" "previous $previous" "base-url $base_url" "python $python" "bin $bin" \
      "modify-path $modify_path"
    for name in $names; do echo "file $bin/$name"; done
    cat "$tmp/written"
  } >"$data/.receipt.$$"
  mv -f "$data/.receipt.$$" "$receipt"
}

# Makes $current the installed version: launchers, PATH, receipt; keeps $previous and nothing older.
activate() {
  mkdir -p "$bin" || die 73 "cannot write $bin"
  sed -n '/^block/p; /^file /p' "$receipt" 2>/dev/null >"$tmp/written" || :
  for name in $names; do
    grep -v -x -F "file $bin/$name" "$tmp/written" >"$tmp/rest" || :
    mv "$tmp/rest" "$tmp/written"
  done
  write_receipt # first, so that --uninstall knows the rest also when we are ended in the middle
  for name in $names; do write_launcher "$name"; done
  case ":$PATH:" in *":$bin:"*) on_path=yes ;; *) on_path=no ;; esac
  if [ "$modify_path" = yes ] && { [ "$on_path" = no ] || grep -q '^block' "$tmp/written"; }; then
    write_block >>"$tmp/written"
  fi
  if [ "$completions" = yes ]; then # a shell that we know no place for gets none
    "$bin/mcpbridge" completions install 2>/dev/null </dev/null | sed -n 's/^wrote /completion /p' >>"$tmp/written" || :
  fi
  sort -u "$tmp/written" >"$tmp/rest"
  mv "$tmp/rest" "$tmp/written"
  write_receipt
  for old in "$data/versions/"*; do
    case ${old##*/} in "$current" | "$previous") ;; *) rm -rf "$old" ;; esac
  done
  find "$data/versions" -maxdepth 1 -name '.new-*' -mtime +0 -exec rm -rf {} + # left by installers that were killed
}

install_release() {
  find_python
  find_platform
  resolve
  short=$(printf '%.8s' "$sum")
  installed=$(fact current)
  if [ "$action" = check ]; then
    [ -n "$version" ] || die 64 '--check needs a place that serves releases'
    if [ "$installed" = "$version-$short" ]; then
      echo "mcpbridge $version is the latest release"
      exit 0
    fi
    echo "mcpbridge $version is there, installed is ${installed:-nothing}"
    exit 1
  fi
  check_places
  if [ -n "$dry_run" ]; then
    say "would install mcpbridge ${version:-(version in the file)} from ${url:-$local_file}"
    say "  sha256 $sum, for $python (Python $python_version)"
    say "  into $data/versions, with $bin/mcpbridge, mcp-router and mcp-gateway"
    find_profile
    [ "$modify_path" = no ] || say "  and a marked block in $profile, where PATH needs it"
    exit 0
  fi
  if [ -n "$version" ] && [ -f "$data/versions/$version-$short/facts" ]; then
    say "mcpbridge $version is already unpacked"
  else
    bring
  fi
  current=$version-$short
  previous=$(fact previous)
  if [ -n "$installed" ] && [ "$installed" != "$current" ]; then previous=$installed; fi
  if [ "$previous" = "$current" ] || [ ! -f "$data/versions/$previous/facts" ]; then previous=; fi
  activate
  said=$("$bin/mcpbridge" --version) || die 70 "$bin/mcpbridge --version failed" "what was installed is left in $data for inspection"
  say "installed $said: $bin/mcpbridge"
  if [ "$on_path" = no ] && [ "$modify_path" = yes ]; then say 'open a new terminal, so that its PATH has it'; fi
  if [ "$on_path" = no ] && [ "$modify_path" = no ]; then say "$bin is not on PATH"; fi
  say "next: mcpbridge --help, or in your editor: command $bin/mcpbridge, arguments router -- COMMAND OF A SERVER"
}

need_receipt() {
  [ -f "$receipt" ] || die 66 "no installation in $data" 'another place is named by --prefix DIR or --data-dir DIR'
}

rollback() {
  need_receipt
  current=$(fact previous) previous=$(fact current)
  if [ -z "$current" ] || [ ! -f "$data/versions/$current/facts" ]; then die 66 "there is no version before $previous to go back to"; fi
  version=$(fact version "$data/versions/$current/facts")
  base_url=$(fact base-url) python=$(fact python) bin=$(fact bin) modify_path=$(fact modify-path)
  check_places
  if [ -n "$dry_run" ]; then
    say "would go back from $previous to $current"
    exit 0
  fi
  activate
  said=$("$bin/mcpbridge" --version) || die 70 "$bin/mcpbridge --version failed"
  say "went back to $said; the other one is kept"
}

# gone PATH: removed, or said in a dry run
gone() {
  if [ -n "$dry_run" ]; then
    say "would remove $1"
  else
    rm -rf "$1" || die 73 "cannot remove $1"
    say "removed $1"
  fi
}

uninstall() {
  need_receipt
  while read -r kind where; do
    case $kind in
      file)
        case ${where##*/} in mcpbridge | mcp-router | mcp-gateway)
          # A command of the same name may be somebody else's by now.
          ours "$where" || continue ;;
        esac
        if [ -f "$where" ]; then gone "$where"; fi
        ;;
      completion)
        if [ -f "$where" ] && grep -q 'completion of mcpbridge; made by' "$where"; then gone "$where"; fi
        ;;
      block | block-created)
        [ -f "$where" ] || continue
        without_block "$where" >"$tmp/profile"
        if [ "$kind" = block-created ] && [ ! -s "$tmp/profile" ]; then
          gone "$where"
        elif ! cmp -s "$tmp/profile" "$where"; then
          if [ -n "$dry_run" ]; then
            say "would remove the block in $where"
          elif { cat "$tmp/profile" >"$where"; } 2>/dev/null; then
            say "removed the block in $where"
          else
            say "cannot write $where; remove the lines from '# >>> mcpbridge >>>' to '# <<< mcpbridge <<<' by hand"
          fi
        fi
        ;;
    esac
  done <"$receipt"
  gone "$data/versions"
  gone "$receipt"
  [ -n "$dry_run" ] || rmdir "$data" 2>/dev/null || :
  if [ -n "$purge" ]; then
    for where in "${XDG_CONFIG_HOME:-$HOME/.config}/mcpbridge" "${XDG_STATE_HOME:-$HOME/.local/state}/mcpbridge" \
      "${XDG_CACHE_HOME:-$HOME/.cache}/mcpbridge"; do
      if [ -e "$where" ]; then gone "$where"; fi
    done
    say 'what you put into the keychain stays there'
  else
    say 'configuration stays (--purge removes it too)'
  fi
}

main() {
  if [ -n "${ZSH_VERSION-}" ]; then emulate sh; fi
  set -eu
  umask 022
  shell=${SHELL:-} action=install quiet='' dry_run='' purge='' from='' sha256='' modify_path=yes completions=yes tmp='''' fresh=''
  base_url=${MCPBRIDGE_BASE_URL:-$default_base_url} version=${MCPBRIDGE_VERSION:-}
  [ -z "${MCPBRIDGE_NO_MODIFY_PATH:-}" ] || modify_path=no
  case ${HOME:-} in /*) ;; *) die 64 'HOME is not set to an absolute path' ;; esac
  bin=${MCPBRIDGE_BIN_DIR:-${XDG_BIN_HOME:-$HOME/.local/bin}}
  data=${XDG_DATA_HOME:-$HOME/.local/share}/mcpbridge
  while [ $# -gt 0 ]; do
    option=$1
    case $option in
      --*=*)
        value=${option#*=}
        option=${option%%=*}
        shift
        set -- "$option" "$value" "$@"
        ;;
    esac
    case $option in
      --base-url | --from | --sha256 | --version | --prefix | --bin-dir | --data-dir)
        [ -n "${2:-}" ] || die 64 "$option needs a value"
        case $option in
          --base-url) base_url=$2 from='' ;;
          --from) from=$(absolute "${2%/}") ;;
          --sha256) sha256=$2 ;;
          --version) version=$2 ;;
          --prefix)
            prefix=$(absolute "${2%/}")
            bin=$prefix/bin data=$prefix/share/mcpbridge completions=no
            ;;
          --bin-dir) bin=$(absolute "${2%/}") ;;
          --data-dir) data=$(absolute "${2%/}") ;;
        esac
        shift 2
        continue
        ;;
      --no-modify-path) modify_path=no ;;
      --no-completions) completions=no ;;
      --check | --rollback | --uninstall)
        [ "$action" = install ] || die 64 "$option and --$action exclude each other"
        action=${option#--}
        ;;
      --purge) purge=yes ;;
      --dry-run) dry_run=yes ;;
      -q | --quiet) quiet=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) die 64 "unknown option $option" 'see: install.sh --help' ;;
    esac
    shift
  done
  [ -z "$purge" ] || [ "$action" = uninstall ] || die 64 '--purge goes with --uninstall'
  [ -z "$version" ] || check_version "$version" 64 --version
  case $bin$data in
    *'
'*) die 64 'a directory whose name has a line break cannot be used' ;;
  esac
  receipt=$data/receipt
  tmp=$(mktemp -d "${TMPDIR:-/tmp}/mcpbridge.XXXXXX") || die 73 "cannot write ${TMPDIR:-/tmp}" 'set TMPDIR to a directory of yours'
  trap 'rm -rf "$tmp" ${fresh:+"$fresh"}' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  case $action in
    install | check) install_release ;;
    rollback) rollback ;;
    uninstall) uninstall ;;
  esac
}

main "$@"; }
