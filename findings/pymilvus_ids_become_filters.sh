#!/usr/bin/env bash
# pymilvus 2.6.17 with Milvus Lite 3.2.2: `delete(ids=[...])` and `get(ids=[...])` paste string keys into a filter
# without quoting them, so that one key deletes or returns other rows.
#
# Keys of a VARCHAR primary key may hold any characters, and paths and titles do hold quotes. `upsert` stores such keys.
# `get(ids=["it's"])` of a row that is there ends with a parser error. Where quotes are balanced nothing is told: below,
# `delete(ids=[KEY])` with a KEY that no row has deletes two rows that were not named. Escaping the key first, or keys
# without quotes (hashes of the names, as wsrl does), avoid it.
#
# Output seen on Linux x86-64 with Python 3.11:
#   pymilvus 2.6.17, milvus-lite 3.2.2
#   rows: ['a', 'b', 'c', "it's"]
#   get(ids=["it's"]): MilvusException
#   delete(ids=["x'] or key in ['a', 'b"]) leaves ['c', "it's"]
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
client.upsert("rows", [{"key": key, "vector": [1.0, 0.0]} for key in ("a", "b", "c", "it's")])


def keys():
    return sorted(row["key"] for row in client.query("rows", filter='key != ""', output_fields=["key"]))


print(f"pymilvus {version('pymilvus')}, milvus-lite {version('milvus-lite')}")
quoted = "it's"
before = keys()
print(f"rows: {before}")
try:
    outcome = f"{len(client.get('rows', ids=[quoted]))} rows"
except MilvusException:
    outcome = "MilvusException"
print(f"""get(ids=["it's"]): {outcome}""")
key = "x'] or key in ['a', 'b"
client.delete("rows", ids=[key])
after = keys()
print(f'delete(ids=["{key}"]) leaves {after}')
same = before == ["a", "b", "c", "it's"] and outcome == "MilvusException" and after == ["c", "it's"]
print("the behavior is as described" if same else "THE BEHAVIOR HAS CHANGED")
sys.exit(not same)
END
