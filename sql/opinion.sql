-- What a user thought of an item before $as_of: one row per user and item, whatever the number of events. Made once a
-- night for user_history.sql and item_audience.sql, and never published.
--
-- The rating is that of the latest rated event. An item that was rated is liked at the user's level (like_level.sql), or where
-- the user has none at $like_threshold, or more, else disliked. One
-- that was never rated is what the latest event says that says anything (event_liked: as the job has it, by default a like);
-- `liked` is null where none does. `recency` numbers a user's opinions, the latest first.
--
-- Hardly any pair has different ratings, or without one events that disagree, and only those need the order of events, which
-- costs much memory.
with event_before as (
    select user_id, item_id, event, rating, event_timestamp, event_liked(event) as told
    from interaction
    where event_timestamp < $as_of
),
agreed as (
    select user_id, item_id, n_events, event_timestamp, rating, told
    from (
        select
            user_id,
            item_id,
            count(*) as n_events,
            max(event_timestamp) as event_timestamp,
            max(rating) as rating,
            min(rating) as lowest,
            bool_or(told) as told,
            bool_and(told) as always_told
        from event_before
        group by user_id, item_id
    )
    where rating = lowest or (rating is null and (told is null or told = always_told))
),
changed as (
    select
        e.user_id,
        e.item_id,
        count(*) as n_events,
        max(e.event_timestamp) as event_timestamp,
        first_value(e.rating order by e.event_timestamp desc, e.event desc nulls last, e.rating desc)
            filter (where e.rating is not null) as rating,
        first_value(e.told order by e.event_timestamp desc, e.event desc nulls last, e.rating desc)
            filter (where e.told is not null) as told
    from (
        select user_id, item_id
        from event_before
        group by user_id, item_id
        having min(rating) < max(rating) or (max(rating) is null and bool_or(told) and not bool_and(told))
    ) as c
    join event_before as e on e.user_id = c.user_id and e.item_id = c.item_id
    group by e.user_id, e.item_id
),
stated as (
    select user_id, item_id, n_events, event_timestamp, rating, told from agreed
    union all
    select user_id, item_id, n_events, event_timestamp, rating, told from changed
)
select
    cast(s.user_id as varchar) as user_id,
    cast(s.item_id as varchar) as item_id,
    cast(s.n_events as bigint) as n_events,
    s.event_timestamp,
    cast(s.rating as float) as rating,
    coalesce(s.rating >= coalesce(l.level, cast($like_threshold as double)), s.told) as liked,
    cast(row_number() over (partition by s.user_id order by s.event_timestamp desc, s.item_id desc) as bigint) as recency
from like_level as l
right join stated as s on s.user_id = l.user_id
order by user_id, recency
