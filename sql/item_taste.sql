-- How an item is liked: one row per item with an event before $as_of. Made once a night for the tables about items, and
-- never published. What a liked item is stands in opinion.sql.
--
-- `item_no` numbers the items in the order of their ids: whole numbers make pairs of items small and quick to group.
-- `is_active`: the item gets a row in item_audience. n_likers and n_dislikers count the latest $max_pair_events
-- opinions of each user only, all other numbers count all. Ratings are summed as decimals, so no result depends on the
-- order of the work.
with counted as (
    select
        item_id,
        max(event_timestamp) as last_event_timestamp,
        sum(n_events) as n_events,
        count(*) as n_users,
        count(*) filter (where liked) as n_likes,
        count(*) filter (where not liked) as n_dislikes,
        count(rating) as n_ratings,
        sum(cast(least(greatest(cast(rating as double), -1e9), 1e9) as decimal(18, 6)))
            filter (where rating is not null) as rating_sum,
        count(*) filter (where liked and recency <= $max_pair_events) as n_likers,
        count(*) filter (where not liked and recency <= $max_pair_events) as n_dislikers
    from opinion
    group by item_id
),
placed as (
    select
        item_id,
        n_events,
        n_users,
        n_likes,
        n_dislikes,
        n_ratings,
        rating_sum,
        n_likers,
        n_dislikers,
        last_event_timestamp >= arrow_cast(
            cast($as_of as bigint) - $item_active_days * 86400000000,
            'Timestamp(Microsecond, Some("UTC"))') as is_recent,
        row_number() over (order by last_event_timestamp desc, item_id) as place
    from counted
),
titled as (
    select
        item_id,
        clean_text(cast(categories as varchar[]), cast($title_chars as bigint)) as categories,
        clean_text(cast(title as varchar), cast($title_chars as bigint)) as title
    from item
)
select
    cast(c.item_id as varchar) as item_id,
    cast(row_number() over (order by c.item_id) as bigint) as item_no,
    c.is_recent and ($max_items = 0 or c.place <= $max_items) as is_active,
    cast(i.title as varchar) as title,
    coalesce(i.categories, cast(make_array() as varchar[])) as categories,
    cast(c.n_events as bigint) as n_events,
    cast(c.n_users as bigint) as n_users,
    cast(c.n_likes as bigint) as n_likes,
    cast(c.n_dislikes as bigint) as n_dislikes,
    case when c.n_ratings > 0 then cast(c.rating_sum as double) / cast(c.n_ratings as double) end as mean_rating,
    cast(c.n_likers as bigint) as n_likers,
    cast(c.n_dislikers as bigint) as n_dislikers
from placed as c
left join titled as i on i.item_id = c.item_id
order by item_id
