-- Who picks an item, after what: one row per item with an event in the last $item_active_days days, from events before
-- $as_of alone. What a liked item is stands in user_history.sql. `co_consumed`, `liker_also` and `disliker_prefers` look
-- at the latest $max_pair_events opinions of each user only, so that the number of pairs stays bounded.
--
--   pmi(a, b) = ln(n_both * n_users / (n_a * n_b))      over users who liked a, b, both; n_users liked anything
--   co_consumed: n_both >= $min_support and pmi > 0, best five by pmi * n_both / (n_both + 10), which keeps chance
--     meetings of two rare items from winning.
--   contrast(a, b) = z of the difference between two shares: likers of a who like b against dislikers of a who like b
--   liker_also: contrast > 0, liked by $min_support of a's likers; disliker_prefers: contrast < 0, by as many dislikers.
-- liked_categories: the same contrast between the categories of what a's likers and dislikers like besides a, best three.
-- All of them come from whole numbers alone, so no result depends on the order of the work.
with event_before as (
    select user_id, item_id, event, rating, event_timestamp
    from interaction
    where event_timestamp < $as_of
),
active as (
    select item_id, max(event_timestamp) as last_event_timestamp
    from event_before
    where event_timestamp >= arrow_cast(
        cast($as_of as bigint) - $item_active_days * 86400000000, 'Timestamp(Microsecond, Some("UTC"))')
    group by item_id
),
tonight as (
    select item_id
    from (
        select item_id, row_number() over (order by last_event_timestamp desc, item_id) as place
        from active
    )
    where $max_items = 0 or place <= $max_items
),
opinion as (
    select
        user_id,
        item_id,
        count(*) as n_events,
        max(event_timestamp) as event_timestamp,
        first_value(rating order by event_timestamp desc, event desc nulls last, rating desc)
            filter (where rating is not null) as rating
    from event_before
    group by user_id, item_id
),
judged as (
    select user_id, item_id, n_events, event_timestamp, rating, coalesce(rating >= $like_threshold, true) as liked
    from opinion
),
summary as (
    select
        j.item_id,
        sum(j.n_events) as n_events,
        count(*) as n_users,
        count(*) filter (where j.liked) as n_likes,
        count(*) filter (where not j.liked) as n_dislikes,
        count(j.rating) as n_ratings,
        sum(cast(least(greatest(cast(j.rating as double), -1e9), 1e9) as decimal(18, 6)))
            filter (where j.rating is not null) as rating_sum
    from judged as j
    join tonight as t on t.item_id = j.item_id
    group by j.item_id
),
titled as (
    select
        item_id,
        categories,
        -- White space, control characters and marks that turn the writing direction become one space.
        nullif(trim(substr(trim(
            regexp_replace(title, '[\s\p{Cc}\p{Z}\x{202A}-\x{202E}\x{2066}-\x{2069}\x{FEFF}]+', ' ', 'g')),
            1, $title_chars)), '') as title
    from item
),
-- Whole numbers for items make the pairs below small and quick to group.
numbered as (
    select item_id, row_number() over (order by item_id) as item_no
    from (select distinct item_id from opinion)
),
recent as (
    select p.user_id, p.item_id, n.item_no, p.liked
    from (
        select
            user_id,
            item_id,
            liked,
            row_number() over (partition by user_id order by event_timestamp desc, item_id desc) as recency
        from judged
    ) as p
    join numbered as n on n.item_id = p.item_id
    where p.recency <= $max_pair_events
),
taste as (
    select
        item_no,
        cast(count(*) filter (where liked) as double) as n_likers,
        cast(count(*) filter (where not liked) as double) as n_dislikers
    from recent
    group by item_no
),
liker_total as (
    select cast(count(distinct user_id) as double) as n_users from recent where liked
),
pair as (
    select
        a.item_no as a_no,
        b.item_no as b_no,
        cast(count(*) filter (where a.liked) as double) as likers_both,
        cast(count(*) filter (where not a.liked) as double) as dislikers_both
    from recent as a
    join numbered as n on n.item_no = a.item_no
    join tonight as t on t.item_id = n.item_id
    join recent as b on b.user_id = a.user_id and b.liked and b.item_no <> a.item_no
    group by a.item_no, b.item_no
    having count(*) filter (where a.liked) >= $min_support or count(*) filter (where not a.liked) >= $min_support
),
measured as (
    select
        p.a_no,
        p.b_no,
        p.likers_both,
        p.dislikers_both,
        case when p.likers_both >= $min_support
            then ln(p.likers_both * u.n_users / (a.n_likers * b.n_likers)) end as pmi,
        case when a.n_likers > 0 and a.n_dislikers > 0
                and p.likers_both + p.dislikers_both < a.n_likers + a.n_dislikers
            then (p.likers_both / a.n_likers - p.dislikers_both / a.n_dislikers)
                / sqrt(
                    (p.likers_both + p.dislikers_both) / (a.n_likers + a.n_dislikers)
                    * (1 - (p.likers_both + p.dislikers_both) / (a.n_likers + a.n_dislikers))
                    * (1 / a.n_likers + 1 / a.n_dislikers))
            end as contrast
    from pair as p
    join taste as a on a.item_no = p.a_no
    join taste as b on b.item_no = p.b_no
    cross join liker_total as u
),
named as (
    select
        a.item_id,
        b.item_id as other_id,
        i.title as other_title,
        m.likers_both,
        m.dislikers_both,
        m.pmi,
        m.contrast,
        m.pmi * m.likers_both / (m.likers_both + 10) as strength
    from measured as m
    join numbered as a on a.item_no = m.a_no
    join numbered as b on b.item_no = m.b_no
    left join titled as i on i.item_id = b.item_id
),
placed as (
    select
        item_id,
        other_id,
        other_title,
        likers_both,
        pmi,
        strength,
        contrast,
        pmi > 0 as together,
        contrast > 0 and likers_both >= $min_support and other_title is not null as liked_more,
        contrast < 0 and dislikers_both >= $min_support and other_title is not null as liked_less,
        row_number() over (
            partition by item_id, pmi > 0 order by strength desc, other_id) as together_place,
        row_number() over (
            partition by item_id, contrast > 0 and likers_both >= $min_support and other_title is not null
            order by contrast desc, other_id) as more_place,
        row_number() over (
            partition by item_id, contrast < 0 and dislikers_both >= $min_support and other_title is not null
            order by contrast, other_id) as less_place
    from named
),
-- One pass over the pairs: a common table expression used three times is computed three times.
evidence as (
    select
        item_id,
        array_agg(
            named_struct(
                'item_id', cast(other_id as varchar),
                'title', cast(other_title as varchar),
                'n_both', cast(likers_both as bigint),
                'pmi', pmi)
            order by strength desc, other_id) filter (where together and together_place <= 5) as co_consumed,
        array_agg(other_title order by contrast desc, other_id)
            filter (where liked_more and more_place <= 5) as liker_also,
        array_agg(other_title order by contrast, other_id)
            filter (where liked_less and less_place <= 5) as disliker_prefers
    from placed
    group by item_id
),
-- What else the likers and the dislikers of an item like, by category, the item itself left out.
user_category as (
    select user_id, category, count(*) as n
    from (
        select r.user_id, unnest(array_distinct(i.categories)) as category
        from recent as r
        join titled as i on i.item_id = r.item_id
        where r.liked
    )
    where category is not null and trim(category) <> ''
    group by user_id, category
),
category_count as (
    select
        r.item_id,
        c.category,
        cast(sum(case when not r.liked then 0 when array_has(i.categories, c.category) then c.n - 1 else c.n end)
            as double) as likers_n,
        cast(sum(case when r.liked then 0 else c.n end) as double) as dislikers_n
    from recent as r
    join tonight as t on t.item_id = r.item_id
    join user_category as c on c.user_id = r.user_id
    left join titled as i on i.item_id = r.item_id
    group by r.item_id, c.category
),
category_share as (
    select
        item_id,
        category,
        likers_n,
        dislikers_n,
        sum(likers_n) over (partition by item_id) as likers_total,
        sum(dislikers_n) over (partition by item_id) as dislikers_total
    from category_count
),
category_contrast as (
    select
        item_id,
        category,
        (likers_n / likers_total - dislikers_n / dislikers_total)
            / sqrt(
                (likers_n + dislikers_n) / (likers_total + dislikers_total)
                * (1 - (likers_n + dislikers_n) / (likers_total + dislikers_total))
                * (1 / likers_total + 1 / dislikers_total)) as contrast
    from category_share
    where likers_n >= $min_support and dislikers_total > 0 and likers_n + dislikers_n < likers_total + dislikers_total
),
category_top as (
    select item_id, array_agg(category order by contrast desc, category) as liked_categories
    from (
        select
            item_id,
            category,
            contrast,
            row_number() over (partition by item_id order by contrast desc, category) as place
        from category_contrast
        where contrast > 0
    )
    where place <= 3
    group by item_id
)
select
    cast(s.item_id as varchar) as item_id,
    $as_of as as_of,
    cast(i.title as varchar) as title,
    cast(s.n_events as bigint) as n_events,
    cast(s.n_users as bigint) as n_users,
    cast(s.n_likes as bigint) as n_likes,
    cast(s.n_dislikes as bigint) as n_dislikes,
    case when s.n_ratings > 0 then cast(s.rating_sum as double) / cast(s.n_ratings as double) end as mean_rating,
    coalesce(i.categories, cast(make_array() as varchar[])) as categories,
    coalesce(
        e.co_consumed,
        arrow_cast(make_array(), 'List(Struct("item_id": Utf8, "title": Utf8, "n_both": Int64, "pmi": Float64))'))
        as co_consumed,
    coalesce(array_distinct(e.liker_also), cast(make_array() as varchar[])) as liker_also,
    coalesce(array_distinct(e.disliker_prefers), cast(make_array() as varchar[])) as disliker_prefers,
    coalesce(g.liked_categories, cast(make_array() as varchar[])) as liked_categories
from summary as s
left join titled as i on i.item_id = s.item_id
left join evidence as e on e.item_id = s.item_id
left join category_top as g on g.item_id = s.item_id
order by item_id
