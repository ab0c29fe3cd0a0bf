-- Who did what before $as_of: one row per user who was active in the last $user_active_days days. What a liked item is
-- stands in opinion.sql.
--
-- Every order ends in an id, and ratings are summed as decimals, so no result depends on the order of the work. The
-- left side of a join is held in memory: it is always the smaller one.
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
    select o.user_id, o.item_id, o.n_events, o.event_timestamp, o.rating, o.liked, o.recency
    from tonight as t
    join opinion as o on o.user_id = t.user_id
),
judged as (
    select o.user_id, o.item_id, o.event_timestamp, o.rating, o.liked, o.recency, i.title, i.categories
    from titled as i
    right join mine as o on o.item_id = i.item_id
),
summary as (
    select
        user_id,
        sum(n_events) as n_events,
        count(*) filter (where liked) as n_likes,
        count(*) filter (where not liked) as n_dislikes,
        count(rating) as n_ratings,
        sum(cast(least(greatest(cast(rating as double), -1e9), 1e9) as decimal(18, 6)))
            filter (where rating is not null) as rating_sum
    from mine
    group by user_id
),
-- Each list has a window of its own, in the list's order: its rows then come grouped and sorted, one user after the
-- other, and memory does not grow with the number of users.
recent as (
    select
        user_id,
        array_reverse(array_agg(
            named_struct(
                'item_id', cast(item_id as varchar),
                'title', cast(title as varchar),
                'rating', cast(rating as float),
                'liked', liked,
                'event_timestamp', event_timestamp)
            order by place)) as recent
    from (
        select
            user_id,
            item_id,
            title,
            rating,
            liked,
            event_timestamp,
            row_number() over (partition by user_id order by recency) as place
        from judged
        where recency <= $history_events
    )
    where place <= $history_events
    group by user_id
),
liked as (
    select user_id, array_distinct(array_agg(title order by place)) as liked_titles
    from (
        select user_id, title, row_number() over (partition by user_id order by recency) as place
        from judged
        where liked and title is not null
    )
    where place <= $history_events
    group by user_id
),
disliked as (
    select user_id, array_distinct(array_agg(title order by place)) as disliked_titles
    from (
        select user_id, title, row_number() over (partition by user_id order by rating, recency) as place
        from judged
        where not liked and title is not null
    )
    where place <= $history_events
    group by user_id
),
category_count as (
    select user_id, category, count(*) as n
    from (select user_id, unnest(array_distinct(categories)) as category from judged where liked)
    where category is not null and trim(category) <> ''
    group by user_id, category
),
category_top as (
    select user_id, array_agg(category order by place) as top_categories
    from (
        select user_id, category, n, row_number() over (partition by user_id order by n desc, category) as place
        from category_count
    )
    where place <= 5
    group by user_id
)
select
    cast(s.user_id as varchar) as user_id,
    $as_of as as_of,
    cast(s.n_events as bigint) as n_events,
    cast(s.n_likes as bigint) as n_likes,
    cast(s.n_dislikes as bigint) as n_dislikes,
    case when s.n_ratings > 0 then cast(s.rating_sum as double) / cast(s.n_ratings as double) end as mean_rating,
    t.last_event_timestamp,
    r.recent,
    coalesce(l.liked_titles, cast(make_array() as varchar[])) as liked_titles,
    coalesce(d.disliked_titles, cast(make_array() as varchar[])) as disliked_titles,
    coalesce(c.top_categories, cast(make_array() as varchar[])) as top_categories
from category_top as c
right join (
    disliked as d
    right join (
        liked as l
        right join (
            tonight as t
            join (summary as s join recent as r on r.user_id = s.user_id) on t.user_id = s.user_id
        ) on l.user_id = s.user_id
    ) on d.user_id = s.user_id
) on c.user_id = s.user_id
order by user_id
