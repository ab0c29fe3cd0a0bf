-- How an item is liked, and whether it is tonight's: one row per item that has an event before $as_of or stands in the
-- catalogue. Made once a night for the tables about items, and never published. What a liked item is stands in opinion.sql.
--
-- `item_no` numbers the items in the order of their ids: whole numbers make pairs of items small and quick to group.
-- `is_active`: the item gets a row in item_audience. Those are, as $items says, the items with an event in the last
-- $item_active_days days ('active'); with them the items of the catalogue that no earlier night has had, or whose content
-- has changed since ('new'); or all. At most $max_items, the most recently active first.
-- `is_candidate`: tonight's pairs have the item (pair_candidate.sql), so evidence about it is made, whether it is active or not.
-- `content_key` is the digest of what the catalogue says of an item, but for its price, which changes too often.
-- n_likers and n_dislikers count the latest $max_pair_events opinions of each user only, all other numbers count all.
-- Ratings are summed as decimals, so no result depends on the order of the work.
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
catalogue as (
    select
        item_id,
        clean_text(cast(categories as varchar[]), cast($title_chars as bigint)) as categories,
        clean_text(cast(title as varchar), cast($title_chars as bigint)) as title,
        cast(md5(concat(
            coalesce(title, ''), chr(31), coalesce(array_to_string(categories, chr(30)), ''), chr(31),
            coalesce(description, ''), chr(31), coalesce(array_to_string(people, chr(30)), ''), chr(31),
            coalesce(brand, ''), chr(31), coalesce(cast(release_year as varchar), ''), chr(31),
            coalesce(array_to_string(attributes, chr(30)), ''))) as varchar) as content_key
    from item
),
judged as (
    select
        coalesce(c.item_id, i.item_id) as item_id,
        i.title,
        i.categories,
        i.content_key,
        c.last_event_timestamp,
        coalesce(c.n_events, 0) as n_events,
        coalesce(c.n_users, 0) as n_users,
        coalesce(c.n_likes, 0) as n_likes,
        coalesce(c.n_dislikes, 0) as n_dislikes,
        coalesce(c.n_ratings, 0) as n_ratings,
        c.rating_sum,
        coalesce(c.n_likers, 0) as n_likers,
        coalesce(c.n_dislikers, 0) as n_dislikers,
        coalesce(
            c.last_event_timestamp >= arrow_cast(
                cast($as_of as bigint) - $item_active_days * 86400000000,
                'Timestamp(Microsecond, Some("UTC"))'),
            false) as is_recent
    from counted as c
    full join catalogue as i on i.item_id = c.item_id
),
wanted as (
    select
        j.*,
        j.is_recent
            or $items = 'all'
            or ($items = 'new' and j.content_key is not null and k.content_key is distinct from j.content_key)
            as is_wanted
    from earlier_item_known as k
    right join judged as j on j.item_id = k.item_id
),
placed as (
    select
        *,
        row_number() over (order by is_wanted desc, last_event_timestamp desc nulls last, item_id) as place
    from wanted
)
select
    cast(p.item_id as varchar) as item_id,
    cast(row_number() over (order by p.item_id) as bigint) as item_no,
    p.is_wanted and ($max_items = 0 or p.place <= $max_items) as is_active,
    c.item_id is not null as is_candidate,
    cast(p.title as varchar) as title,
    coalesce(p.categories, cast(make_array() as varchar[])) as categories,
    cast(p.n_events as bigint) as n_events,
    cast(p.n_users as bigint) as n_users,
    cast(p.n_likes as bigint) as n_likes,
    cast(p.n_dislikes as bigint) as n_dislikes,
    case when p.n_ratings > 0 then cast(p.rating_sum as double) / cast(p.n_ratings as double) end as mean_rating,
    cast(p.n_likers as bigint) as n_likers,
    cast(p.n_dislikers as bigint) as n_dislikers,
    cast(p.content_key as varchar) as content_key
from (select item_id from pair_candidate group by item_id) as c
right join placed as p on p.item_id = c.item_id
order by item_id
