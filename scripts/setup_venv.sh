#!/bin/sh
# Builds .venv from pyproject.toml and constraints.txt; does nothing, quickly, when it is up to date.
# It takes the newest fitting Python on PATH, or exactly $PYTHON where that is set.
# Exit code: 2 where no Python fits, 1 where the installation fails.
set -eu
cd "$(dirname "$0")/.."

# `requires-python` of pyproject.toml in the form that the probe needs; a test holds the two together.
oldest=11 newest=13
names='python3.13 python3.12 python3.11 python3 python'
misfits='python3.14 python3.10 python3.9 python3.8 python2.7 python2' # never taken, only named in the message
needs="Python 3.$oldest to 3.$newest with its venv module"

say() { printf 'setup: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }

# Prints version, "ok", "old", "new" or "no-venv", prefix and executable of a Python of any age, a line each.
# It has to be run: pyenv's shims may only fail, and Debian leaves out ensurepip. Of a virtual environment it names
# the Python below it, since ours is deleted before it is made anew.
probe() {
    "$1" -E -c '
import os, sys
version, oldest, newest = sys.version_info, int(sys.argv[1]), int(sys.argv[2])
state = "old" if version[:2] < (3, oldest) else "new" if version[:2] > (3, newest) else "ok"
try:
    import ensurepip, venv
except ImportError:
    state = "no-venv" if state == "ok" else state
print("%d.%d.%d" % tuple(version[:3]))
print(state)
print(os.path.realpath(getattr(sys, "base_prefix", sys.prefix)))
print(getattr(sys, "_base_executable", None) or sys.executable)
' "$oldest" "$newest" 2>/dev/null
}

line() { printf '%s\n' "$1" | sed -n "$2p"; }

# Sets `python` to the newest fitting one of these names, and `seen` to the versions that don't fit. It looks past the
# first of a name on PATH, since that may be a broken shim.
look_for() {
    for name; do
        rest=$PATH:
        while [ -n "$rest" ]; do
            candidate=${rest%%:*}/$name rest=${rest#*:}
            [ -f "$candidate" ] && [ -x "$candidate" ] || continue
            found=$(probe "$candidate") || continue
            version=$(line "$found" 1) state=$(line "$found" 2)
            if [ "$state" = ok ]; then
                minor=${version#*.} minor=${minor%%.*}
                [ "$minor" -gt "$best" ] && best=$minor python=$(line "$found" 4)
            else
                note=$version
                [ "$state" = no-venv ] && note="$version without venv" || lacking_venv_only=no
                case ", $seen, " in *", $note, "*) ;; *) seen=${seen:+$seen, }$note ;; esac
            fi
        done
    done
}

choose() {
    best=0 python='' seen='' lacking_venv_only=yes
    look_for $names
    [ -z "$python" ] || return 0
    look_for $misfits
    [ -n "$seen" ] || refuse "needs $needs; found no Python on PATH"
    [ $lacking_venv_only = no ] ||
        refuse "needs $needs; found $seen: install that module (Debian, Ubuntu: apt install python3-venv)"
    refuse "needs $needs; found $seen"
}

# The same for the Python that the user named: that one or none.
take_given() {
    found=$(probe "$PYTHON") || refuse "needs $needs; PYTHON=$PYTHON does not run"
    version=$(line "$found" 1) python=$(line "$found" 4)
    case $(line "$found" 2) in
        ok) ;;
        no-venv) refuse "needs $needs; PYTHON=$PYTHON is $version without venv" ;;
        *) refuse "needs $needs; PYTHON=$PYTHON is $version" ;;
    esac
}

# What .venv was made from; a checkout that was moved or copied needs a new one.
files() { cat pyproject.toml constraints.txt | cksum; }
interpreter() { found=$(probe .venv/bin/python) && line "$found" 1 && line "$found" 3 && pwd -P; }

# Whether .venv runs, is of the wanted Python, and still has all that was installed (more is the user's affair).
sound() {
    [ -f .venv/stamp/files ] && now=$(interpreter) && [ "$now" = "$(cat .venv/stamp/interpreter)" ] || return 1
    if [ -n "${PYTHON:-}" ]; then
        given=$(probe "$PYTHON") || return 1
        [ "$(line "$given" 1) $(line "$given" 3)" = "$(line "$now" 1) $(line "$now" 2)" ] || return 1
    fi
    (cd .venv/lib/python*/site-packages && while read -r entry; do
        [ -e "$entry" ] || exit 1
    done) <.venv/stamp/installed && complete
}

# Whether every file that the packages list in their RECORDs is there; well under a second.
complete() {
    .venv/bin/python -I -c '
import csv, glob, os, site, sys
for folder in site.getsitepackages():
    for record in glob.glob(os.path.join(glob.escape(folder), "*.dist-info", "RECORD")):
        with open(record, newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if row and not row[0].endswith(".pyc") and not os.path.exists(os.path.join(folder, row[0])):
                    sys.exit(1)
' 2>/dev/null
}

current() { sound && [ "$(files)" = "$(cat .venv/stamp/files)" ]; }

# Two runs at once take turns. The lock lies on this script's open file, so it goes with its process, however that ends;
# where the system has no such locks we do without.
lock() {
    exec 9<scripts/setup_venv.sh
    "$python" -E -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: another run is at work on .venv; waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
' >&2 2>/dev/null || true
}

install() {
    pip='.venv/bin/python -I -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt'
    wanted=$(files)
    rm -f .venv/stamp/files # without it .venv counts as half-made
    $pip hatchling && $pip --no-build-isolation -e '.[dev]' || {
        say 'pip failed (its message is above); the same command starts afresh'
        exit 1
    }
    mkdir -p .venv/stamp
    (cd .venv/lib/python*/site-packages && ls) >.venv/stamp/installed
    interpreter >.venv/stamp/interpreter
    printf '%s\n' "$wanted" >.venv/stamp/files
    say "done: .venv has Python $(line "$(cat .venv/stamp/interpreter)" 1)"
}

current && exit 0
if [ -n "${PYTHON:-}" ]; then take_given; else choose; fi
lock
current && exit 0 # made by another run while we waited
if sound; then
    say 'pyproject.toml or constraints.txt changed; updating .venv'
else
    say "building .venv with $python (about two minutes and 2 GB the first time)"
    rm -rf .venv
    "$python" -m venv .venv || { say "$python -m venv failed"; exit 1; }
fi
install
