-- Who did what before $as_of: one row per user who was active in the last $user_active_days days. What a liked item is
-- stands in opinion.sql.
--
-- Every order ends in an id, and ratings are summed as decimals, so no result depends on the order of the work. The
-- left side of a join is held in memory: it is always the smaller one. The opinions come grouped by user, as they lie in
-- their file, through both joins: users are done with one after the other, and memory does not grow with their number.
with active as (
    select user_id, max(event_timestamp) as last_event_timestamp
    from interaction
    where event_timestamp < $as_of and event_timestamp >= arrow_cast(
        cast($as_of as bigint) - $user_active_days * 86400000000, 'Timestamp(Microsecond, Some("UTC"))')
    group by user_id
),
tonight as (
    select user_id, last_event_timestamp
    from (
        select user_id, last_event_timestamp, row_number() over (order by last_event_timestamp desc, user_id) as place
        from active
    )
    where $max_users = 0 or place <= $max_users
),
titled as (
    select
        item_id,
        clean_text(cast(categories as varchar[]), cast($title_chars as bigint)) as categories,
        clean_text(cast(title as varchar), cast($title_chars as bigint)) as title
    from item
),
mine as (
    select t.last_event_timestamp, o.user_id, o.item_id, o.n_events, o.event_timestamp, o.rating, o.liked, o.recency
    from tonight as t
    join opinion as o on o.user_id = t.user_id
),
judged as (
    select
        o.last_event_timestamp,
        o.user_id,
        o.item_id,
        o.n_events,
        o.event_timestamp,
        o.rating,
        o.liked,
        o.recency,
        i.title,
        i.categories
    from titled as i
    right join mine as o on o.item_id = i.item_id
),
summary as (
    select
        user_id,
        max(last_event_timestamp) as last_event_timestamp,
        sum(n_events) as n_events,
        count(*) filter (where liked) as n_likes,
        count(*) filter (where not liked) as n_dislikes,
        count(rating) as n_ratings,
        sum(cast(least(greatest(cast(rating as double), -1e9), 1e9) as decimal(18, 6)))
            filter (where rating is not null) as rating_sum,
        min_by(
            named_struct(
                'item_id', cast(item_id as varchar),
                'title', cast(title as varchar),
                'rating', cast(rating as float),
                'liked', liked,
                'event_timestamp', event_timestamp),
            recency, $history_events) as recent,
        min_by(title, recency, $history_events) filter (where liked and title is not null) as liked_titles,
        min_by(title, struct(rating, recency), $history_events) filter (where not liked and title is not null)
            as disliked_titles,
        most_frequent(categories, 5) filter (where liked) as top_categories
    from judged
    group by user_id
)
select
    cast(s.user_id as varchar) as user_id,
    $as_of as as_of,
    cast(s.n_events as bigint) as n_events,
    cast(s.n_likes as bigint) as n_likes,
    cast(s.n_dislikes as bigint) as n_dislikes,
    case when s.n_ratings > 0 then cast(s.rating_sum as double) / cast(s.n_ratings as double) end as mean_rating,
    s.last_event_timestamp,
    array_reverse(s.recent) as recent,
    coalesce(array_distinct(s.liked_titles), cast(make_array() as varchar[])) as liked_titles,
    coalesce(array_distinct(s.disliked_titles), cast(make_array() as varchar[])) as disliked_titles,
    coalesce(s.top_categories, cast(make_array() as varchar[])) as top_categories
from summary as s
order by user_id
