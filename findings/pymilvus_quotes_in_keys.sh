#!/usr/bin/env bash
# pymilvus 2.6.17 with Milvus Lite 3.2.2: a row whose string key holds a quote can be written, but neither got nor
# deleted by its key.
#
# Keys of a VARCHAR primary key may hold any characters, and paths and titles do hold quotes. `upsert` stores such keys,
# and a query whose filter escapes the quote finds them. `get(ids=[...])` and `delete(ids=[...])` put keys into a filter
# as they are, and end with a parser error. So `ids` should not hold what comes from outside; keys that are hashes of
# the names avoid it.
#
# Output seen on Linux x86-64 with Python 3.11:
#   pymilvus 2.6.17, milvus-lite 3.2.2
#   rows: ['a', "it's"]
#   query with the quote escaped: ["it's"]
#   get(ids=["it's"]): MilvusException
#   delete(ids=["it's"]): MilvusException
#
# Exits 0 if this still is so, 1 if it is not. PYTHON names a Python of 3.10 or newer (python3 by default).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pymilvus==2.6.17 milvus-lite==3.2.2
cd "$folder"
"$folder/venv/bin/python" - 2>"$folder/log" <<'END' || { cat "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

from pymilvus import DataType, MilvusClient, MilvusException

client = MilvusClient("rows.db")
schema = client.create_schema(auto_id=False)
schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
indexes = client.prepare_index_params()
indexes.add_index("vector", index_type="FLAT", metric_type="IP")
client.create_collection("rows", schema=schema, index_params=indexes, consistency_level="Strong")
client.upsert("rows", [{"key": key, "vector": [1.0, 0.0]} for key in ("a", "it's")])


def found(condition):
    return sorted(row["key"] for row in client.query("rows", filter=condition, output_fields=["key"]))


def outcome(call):
    try:
        call("rows", ids=["it's"])
    except MilvusException:
        return "MilvusException"
    return "done"


print(f"pymilvus {version('pymilvus')}, milvus-lite {version('milvus-lite')}")
rows, escaped = found('key != ""'), found("key == 'it\\'s'")
got, deleted = outcome(client.get), outcome(client.delete)
print(f"rows: {rows}")
print(f"query with the quote escaped: {escaped}")
print(f"""get(ids=["it's"]): {got}""")
print(f"""delete(ids=["it's"]): {deleted}""")
same = (rows, escaped, got, deleted) == (["a", "it's"], ["it's"], "MilvusException", "MilvusException")
print("the behavior is as described" if same else "THE BEHAVIOR HAS CHANGED")
sys.exit(not same)
END
