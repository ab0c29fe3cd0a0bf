-- What a user thought of an item before $as_of: one row per user and item, whatever the number of events. Made once a
-- night for user_history.sql and item_audience.sql, and never published.
--
-- The rating is that of the latest rated event. An item that was rated is liked at the user's level (like_level.sql), or where
-- the user has none at $like_threshold, or more, else disliked. One
-- that was never rated is what the latest event says that says anything (event_liked: as the job has it, by default a like);
-- `liked` is null where none does. `recency` numbers a user's opinions, the latest first.
--
-- Which event is a pair's latest is told by event_timestamp, then by event, then by rating: `latest` keeps it while the log is
-- read once, in whatever order it comes.
with stated as (
    select
        user_id,
        item_id,
        count(*) as n_events,
        max(event_timestamp) as event_timestamp,
        latest(rating, event_timestamp, event) as rating,
        latest(event_liked(event), event_timestamp, event) as told
    from interaction
    where event_timestamp < $as_of
    group by user_id, item_id
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
