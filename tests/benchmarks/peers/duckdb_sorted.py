"""Write a CSV of ratings as two sorted Parquet files, by DuckDB.

python duckdb_sorted.py RATINGS.csv FOLDER THREADS
"""

from __future__ import annotations

import sys

import duckdb

COPY = """
COPY (SELECT "user", item, rating FROM ratings ORDER BY {order})
TO '{folder}/by_{side}.parquet' (FORMAT parquet, COMPRESSION zstd)
"""

source, folder, threads = sys.argv[1:]
connection = duckdb.connect(config={"threads": int(threads), "temp_directory": folder})
connection.execute(
    """
    CREATE TEMP TABLE ratings AS
    SELECT userId::INTEGER AS "user", movieId::INTEGER AS item, rating::FLOAT AS rating
    FROM read_csv(?, header = true)
    """,
    [source],
)
connection.execute(COPY.format(order='"user", item', folder=folder, side="user"))
connection.execute(COPY.format(order='item, "user"', folder=folder, side="item"))
print(duckdb.__version__)
