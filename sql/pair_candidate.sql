-- Tonight's pairs of users and items to argue for, from the input `pair`: one row per pair. Never published.
--
-- A candidate gets no row where the user has no event before $as_of, or where the catalogue does not have the item. An item
-- that the user has met already is a candidate like any other, and a user need not be among tonight's of user_history.
-- `dt` is the first day of the night that a candidate is for; without one it is for every night. A pair that stands twice
-- counts once, by its smallest rank.
--
-- At most $max_pairs_per_user of a user, by rank and without one by item, and $max_pairs in all: every user's first
-- candidate comes before anybody's second. 0 stands for no limit. The left side of a join is held in memory: it is the
-- candidates, which may be many fewer than the opinions.
with named as (
    select user_id, item_id, min(rank) as rank
    from pair
    where dt is null or replace(dt, '-', '') = replace(cast(cast($interval_start as date) as varchar), '-', '')
    group by user_id, item_id
),
known as (
    select n.user_id, n.item_id, n.rank
    from named as n
    left semi join opinion as o on o.user_id = n.user_id
    left semi join item as i on i.item_id = n.item_id
),
placed as (
    select user_id, item_id, row_number() over (partition by user_id order by rank nulls last, item_id) as place
    from known
),
numbered as (
    select user_id, item_id, row_number() over (order by place, user_id) as number
    from placed
    where $max_pairs_per_user = 0 or place <= $max_pairs_per_user
)
select cast(user_id as varchar) as user_id, cast(item_id as varchar) as item_id
from numbered
where $max_pairs = 0 or number <= $max_pairs
order by user_id, item_id
