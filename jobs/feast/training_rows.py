"""Training rows of a ranker from Feast: every event of a log with the item's and the user's features of that moment.

    python training_rows.py interaction.parquet training.parquet     # in the repository, after `feast apply`

The same join as `curec export`: the newest row of each item and user whose event_timestamp is not after the event's. Where there is
none yet, the features are null; curec's own export has zeros and a flag there. A service names the features, here the one that
curec's definitions bring; its columns are `item_feature__embedding`, `user_feature__embedding` and so on.

The log is a Parquet file with user_id, item_id and event_timestamp, as `curec import` writes it. Needs feast. Copy it and change it.
"""

import sys

import pandas as pd
from feast import FeatureStore

SERVICE = "nightly"  # named like the job


def training_rows(store, events):
    """A data frame of `events` (user_id, item_id, event_timestamp and any further columns) with their features."""
    service = store.get_feature_service(SERVICE)
    # Both views have columns of the same names.
    return store.get_historical_features(entity_df=events, features=service, full_feature_names=True).to_df()


def main():
    log, out = sys.argv[1:]
    rows = training_rows(FeatureStore(repo_path="."), pd.read_parquet(log))
    rows.to_parquet(out, index=False)
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    main()
