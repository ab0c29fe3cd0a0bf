"""Checks published user_history and item_audience rows against DuckDB, from the input logs, with other SQL.

    python tests/python/crosscheck_sql.py --interaction interaction.parquet --item-audience 'item_audience/dt=*/*.parquet' \
        --user-history 'user_history/dt=*/*.parquet' --as-of 1998-04-21 --like-threshold 4 --min-support 5 \
        --max-pair-events 200 --item-active-days 1 --user-active-days 1

Ends with code 1 and the differing rows when anything differs. Needs the package duckdb.
"""

import argparse
import math
import sys
from collections import Counter, defaultdict

import duckdb


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("interaction", "item-audience", "user-history", "as-of"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--like-threshold", type=float, default=4.0)
    for name, value in (("min-support", 5), ("max-pair-events", 200), ("item-active-days", 1), ("user-active-days", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main():
    a = arguments()
    db = duckdb.connect()
    db.execute("set timezone = 'UTC'")
    columns = [c[0] for c in db.execute("describe select * from read_parquet(?)", [a.interaction]).fetchall()]
    at = "event_timestamp" if "event_timestamp" in columns else "timestamp"
    # One event per user and item is enough for the logs this is meant for; refuse others rather than compare wrongly.
    log = db.execute(
        f"""select user_id, item_id, rating, epoch_us({at}) from read_parquet(?)
            where {at} < cast(? as timestamptz) order by 4, 1, 2""",
        [a.interaction, a.as_of],
    ).fetchall()
    if len({(u, i) for u, i, _, _ in log}) != len(log):
        sys.exit("the log has several events for one user and item; this check does not cover that")
    end = db.execute("select epoch_us(cast(? as timestamptz))", [a.as_of]).fetchone()[0]
    like = lambda rating: rating is None or rating >= a.like_threshold

    by_user, by_item = defaultdict(list), defaultdict(list)
    for user, item, rating, t in log:
        by_user[user].append((t, item, rating))
        by_item[item].append((t, user, rating))
    bad = []

    def compare(what, key, expected, found):
        if isinstance(expected, float) and found is not None:
            same = math.isclose(expected, found, rel_tol=1e-12, abs_tol=1e-12)
        else:
            same = expected == found
        if not same:
            bad.append((what, key, expected, found))

    def counts(what, key, events, row):
        ratings = [r for _, _, r in events if r is not None]
        compare(f"{what}.n_events", key, len(events), row["n_events"])
        compare(f"{what}.n_likes", key, sum(like(r) for _, _, r in events), row["n_likes"])
        compare(f"{what}.n_dislikes", key, sum(not like(r) for _, _, r in events), row["n_dislikes"])
        compare(f"{what}.mean_rating", key, sum(ratings) / len(ratings) if ratings else None, row["mean_rating"])

    def rows(path, columns):
        table = db.execute(f"select {columns} from read_parquet(?)", [path])
        names = [d[0] for d in table.description]
        return [dict(zip(names, row)) for row in table.fetchall()]

    def active(events, days):
        return any(t >= end - days * 86_400_000_000 for t, _, _ in events)

    counted = "n_events, n_likes, n_dislikes, mean_rating"
    recent = "list_transform(recent, lambda r: r.item_id) as recent"
    users = {r["user_id"]: r for r in rows(a.user_history, f"user_id, {counted}, {recent}")}
    compare("user_history", "ids", sorted(u for u, e in by_user.items() if active(e, a.user_active_days)), sorted(users))
    for user, row in users.items():
        counts("user_history", user, by_user[user], row)
        latest = [i for _, i, _ in sorted(by_user[user])][-len(row["recent"]) :]
        compare("user_history.recent", user, latest, row["recent"])

    likers, both, n_users = Counter(), Counter(), 0
    for events in by_user.values():
        latest = sorted(events)[-a.max_pair_events :]
        liked = sorted(i for _, i, r in latest if like(r))
        n_users += bool(liked)
        likers.update(liked)
        both.update((x, y) for x in liked for y in liked if x != y)
    others = defaultdict(list)
    for (x, y), n in both.items():
        pmi = math.log(n * n_users / (likers[x] * likers[y]))
        if n >= a.min_support and pmi > 0:
            others[x].append((-pmi * n / (n + 10), y, n, pmi))
    items = {r["item_id"]: r for r in rows(a.item_audience, f"item_id, {counted}, co_consumed")}
    compare("item_audience", "ids", sorted(i for i, e in by_item.items() if active(e, a.item_active_days)), sorted(items))
    pairs = 0
    for item, row in items.items():
        counts("item_audience", item, by_item[item], row)
        expected = sorted(others[item])[:5]
        found = row["co_consumed"]
        compare("item_audience.co_consumed", item, [(y, n) for _, y, n, _ in expected], [(c["item_id"], c["n_both"]) for c in found])
        for (_, y, _, pmi), c in zip(expected, found):
            compare("item_audience.pmi", (item, y), pmi, c["pmi"])
            pairs += 1
    for difference in bad[:20]:
        print(*difference, file=sys.stderr)
    print(f"{len(users)} users, {len(items)} items, {pairs} pairs checked, {len(bad)} differences")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
