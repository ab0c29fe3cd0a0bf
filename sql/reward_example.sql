-- What a reward model learns from: users and items that they first met in [$interval_start, $interval_end), what became of
-- it, and what a reason may lean on. opinion, user_history and item_audience are those as of $interval_start.
--
-- Evidence about items is as of $interval_start, and so is that about users who have a row in user_history. A newcomer, who
-- has none, but meets items enough in the interval, has a cut of their own, as in KAR (arXiv:2306.10933): what the user did
-- up to that moment is the evidence, made by the rules of opinion and user_history, and examples are strictly later. Where
-- the cut lies follows from the times of a user's events alone.
--
--   label     the latest rating of the interval is a like: by like_level, else $like_threshold or more; without one, what the
--             latest event says that says anything (event_liked); false as well where `sampled`. Items of which no event says
--             anything are not asked about.
--   sampled   the user never met the item: it is the nearest in popularity to one that the user liked, at that one's
--             time. There are as many of a user as likes lack dislikes, so that a gain is more than optimism.
--   history   the user's last 20 events that say anything, strictly before event_timestamp, oldest first
--   subject, liked, disliked, related, attributes   the evidence of alignment_example's task `pair`. Nothing of it, and so
--             no text that is made of it, depends on the label.
--
-- At most $rows_per_user of each label and user, and $max_examples in all: which ones follows from digests of ids.
with audience as (
    select item_id, title, n_users, categories
    from item_audience
    where title is not null
),
edge as (
    select distinct a_id, b_id
    from (
        select item_id as a_id, other['item_id'] as b_id
        from (select item_id, unnest(co_consumed) as other from item_audience)
        union all
        select other['item_id'] as a_id, item_id as b_id
        from (select item_id, unnest(co_consumed) as other from item_audience)
    )
),
-- Of an item that is met more than once the first time counts: later ones have it in their history.
event_within as (
    select
        user_id,
        item_id,
        min(event_timestamp) as event_timestamp,
        first_value(rating order by event_timestamp desc, event desc nulls last, rating desc)
            filter (where rating is not null) as rating,
        first_value(told order by event_timestamp desc, event desc nulls last, rating desc)
            filter (where told is not null) as told
    from (select *, event_liked(event) as told from interaction)
    where event_timestamp >= $interval_start and event_timestamp < $interval_end
    group by user_id, item_id
),
-- The first half of a newcomer's items, five at least, and all others that were met at the moment of its last one.
newcomer as (
    select user_id, max(event_timestamp) as cut
    from (
        select
            e.user_id,
            e.event_timestamp,
            cast(row_number() over (partition by e.user_id order by e.event_timestamp, e.item_id) as bigint) as place,
            count(*) over (partition by e.user_id) as n
        from event_within as e
        left anti join user_history as h on h.user_id = e.user_id
    )
    where 2 * place <= n + 1
    group by user_id
    having count(*) >= 5
),
-- After which moment what a user meets is asked about.
known as (
    select
        user_id,
        arrow_cast(cast($interval_start as bigint) - 1, 'Timestamp(Microsecond, Some("UTC"))') as cut
    from user_history
    union all
    select user_id, cut from newcomer
),
met as (
    select user_id, item_id from opinion
    union
    select user_id, item_id from event_within
),
seen as (
    select
        e.user_id,
        e.item_id,
        e.event_timestamp,
        coalesce(e.rating >= coalesce(l.level, cast($like_threshold as double)), e.told) as label
    from event_within as e
    join known as k on k.user_id = e.user_id
    left join like_level as l on l.user_id = e.user_id
    left anti join opinion as o on o.user_id = e.user_id and o.item_id = e.item_id
    left semi join audience as a on a.item_id = e.item_id
    where e.event_timestamp > k.cut
        and coalesce(e.rating >= coalesce(l.level, cast($like_threshold as double)), e.told) is not null
),
drawn as (
    select
        user_id,
        item_id,
        event_timestamp,
        label,
        row_number() over (
            partition by user_id, label order by md5(concat('reward ', user_id, ' ', item_id)), item_id) as place,
        sum(case when label then 0 else 1 end) over (partition by user_id) as n_dislikes
    from seen
),
asked as (
    select user_id, item_id, event_timestamp, label, place, n_dislikes from drawn where place <= $rows_per_user
),
-- Likes for which there is no dislike, and for each the nearest item that the user never met.
lonely as (
    select user_id, item_id, event_timestamp
    from asked
    where label and place > n_dislikes
),
placed as (
    select item_id, row_number() over (order by n_users, item_id) as place from audience
),
near as (
    select
        c.user_id,
        c.target_id,
        c.item_id,
        c.event_timestamp,
        row_number() over (
            partition by c.user_id, c.target_id
            order by c.distance, md5(concat(c.user_id, ' ', c.target_id, ' ', c.item_id)), c.item_id) as nearest
    from (
        select w.user_id, w.target_id, w.event_timestamp, p.item_id, abs(w.offset) as distance
        from (
            select
                l.user_id,
                l.item_id as target_id,
                l.event_timestamp,
                p.place,
                unnest(make_array(-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9)) as offset
            from lonely as l
            join placed as p on p.item_id = l.item_id
        ) as w
        join placed as p on p.place = w.place + w.offset
    ) as c
    left anti join met as m on m.user_id = c.user_id and m.item_id = c.item_id
),
-- Two likes may have the same neighbour.
unmet as (
    select user_id, item_id, min(event_timestamp) as event_timestamp
    from near
    where nearest = 1
    group by user_id, item_id
),
whole as (
    select user_id, item_id, event_timestamp, label, false as sampled from asked
    union all
    select user_id, item_id, event_timestamp, false as label, true as sampled from unmet
),
chosen as (
    select example_id, user_id, item_id, event_timestamp, label, sampled
    from (
        select
            *,
            row_number() over (order by example_id) as place
        from (
            select cast(md5(concat('reward ', user_id, ' ', item_id)) as varchar) as example_id, *
            from whole
        )
    )
    where place <= $max_examples
),
past as (
    select
        example_id,
        array_agg(
            named_struct('item_id', cast(item_id as varchar), 'liked', liked, 'event_timestamp', event_timestamp)
            order by recency desc) as history
    from (
        select
            c.example_id,
            e.item_id,
            coalesce(e.rating >= coalesce(c.level, cast($like_threshold as double)), event_liked(e.event)) as liked,
            e.event_timestamp,
            row_number() over (
                partition by c.example_id
                order by e.event_timestamp desc, e.item_id desc, e.rating desc nulls last, e.event desc nulls last)
                as recency
        from (
            select c.example_id, c.user_id, c.event_timestamp, l.level
            from like_level as l
            right join chosen as c on c.user_id = l.user_id
        ) as c
        join interaction as e on e.user_id = c.user_id
        where e.event_timestamp < c.event_timestamp
            and coalesce(e.rating >= coalesce(c.level, cast($like_threshold as double)), event_liked(e.event))
                is not null
    )
    where recency <= 20
    group by example_id
),
titled as (
    select
        item_id,
        clean_text(cast(categories as varchar[]), cast($title_chars as bigint)) as categories,
        clean_text(cast(title as varchar), cast($title_chars as bigint)) as title
    from item
),
-- What newcomers thought, at the cut, of the 30 items that they met last (as many as KAR shows). They rated nothing before, so
-- nobody has a level of their own.
own as (
    select
        s.user_id,
        s.item_id,
        s.event_timestamp,
        s.rating,
        coalesce(s.rating >= $like_threshold, s.told) as liked,
        s.recency,
        cast(i.title as varchar) as title,
        i.categories
    from (
        select
            *,
            row_number() over (partition by user_id order by event_timestamp desc, item_id desc) as recency
        from (
            select
                e.user_id,
                e.item_id,
                max(e.event_timestamp) as event_timestamp,
                first_value(e.rating order by e.event_timestamp desc, e.event desc nulls last, e.rating desc)
                    filter (where e.rating is not null) as rating,
                first_value(e.told order by e.event_timestamp desc, e.event desc nulls last, e.rating desc)
                    filter (where e.told is not null) as told
            from newcomer as n
            join (select *, event_liked(event) as told from interaction) as e on e.user_id = n.user_id
            where e.event_timestamp >= $interval_start and e.event_timestamp <= n.cut
            group by e.user_id, e.item_id
        )
    ) as s
    left join titled as i on i.item_id = s.item_id
    where s.recency <= 30
),
-- Likes the latest first, dislikes the worst first.
own_titles as (
    select
        user_id,
        array_distinct(array_agg(title order by place) filter (where liked)) as liked_titles,
        array_distinct(array_agg(title order by place) filter (where not liked)) as disliked_titles
    from (
        select
            user_id,
            title,
            liked,
            row_number() over (partition by user_id order by case when liked then 0 else rating end, recency) as place
        from own
        where title is not null
    )
    group by user_id
),
own_categories as (
    select user_id, array_agg(category order by place) as top_categories
    from (
        select user_id, category, row_number() over (partition by user_id order by n desc, category) as place
        from (
            select user_id, category, count(*) as n
            from (select user_id, unnest(array_distinct(categories)) as category from own where liked)
            where category is not null and trim(category) <> ''
            group by user_id, category
        )
    )
    where place <= 5
    group by user_id
),
profile as (
    select user_id, liked_titles, disliked_titles, top_categories from user_history
    union all
    select
        n.user_id,
        coalesce(t.liked_titles, cast(make_array() as varchar[])) as liked_titles,
        coalesce(t.disliked_titles, cast(make_array() as varchar[])) as disliked_titles,
        coalesce(c.top_categories, cast(make_array() as varchar[])) as top_categories
    from newcomer as n
    left join own_titles as t on t.user_id = n.user_id
    left join own_categories as c on c.user_id = n.user_id
),
recent as (
    select user_id, seen['item_id'] as item_id, seen['title'] as title, seen['liked'] as liked,
        seen['event_timestamp'] as event_timestamp
    from (select user_id, unnest(recent) as seen from user_history)
    union all
    select user_id, item_id, title, liked, event_timestamp from own
),
going as (
    select
        example_id,
        array_agg(title order by event_timestamp desc, title) filter (where liked) as liked,
        array_agg(title order by event_timestamp desc, title) filter (where not liked) as disliked
    from (
        -- A title that a user both likes and dislikes, as two items, says nothing.
        select c.example_id, r.title, bool_and(r.liked) as liked, max(r.event_timestamp) as event_timestamp
        from chosen as c
        join edge as e on e.a_id = c.item_id
        join recent as r on r.user_id = c.user_id and r.item_id = e.b_id
        where r.title is not null
        group by c.example_id, r.title
        having bool_and(r.liked) = bool_or(r.liked)
    )
    group by example_id
),
evidence as (
    select
        c.example_id,
        c.user_id,
        c.item_id,
        c.event_timestamp,
        c.label,
        c.sampled,
        i.title,
        i.categories,
        array_slice(array_remove_all(coalesce(g.liked, cast(make_array() as varchar[])), i.title), 1, 3) as for_it,
        array_slice(
            array_except(coalesce(g.disliked, cast(make_array() as varchar[])), array_append(h.liked_titles, i.title)),
            1, 2) as against,
        h.liked_titles,
        h.disliked_titles,
        array_slice(
            array_except(i.categories, array_except(i.categories, h.top_categories)),
            1, 3) as shared
    from chosen as c
    join audience as i on i.item_id = c.item_id
    join profile as h on h.user_id = c.user_id
    left join going as g on g.example_id = c.example_id
),
typed as (
    select
        example_id,
        cast(user_id as varchar) as user_id,
        cast(item_id as varchar) as item_id,
        event_timestamp,
        label,
        sampled,
        cast(title as varchar) as subject,
        cast(array_slice(
            array_distinct(array_concat(for_it, array_remove_all(liked_titles, title))), 1, 6) as varchar[]) as liked,
        cast(array_slice(
            array_distinct(array_concat(
                against, array_except(disliked_titles, array_append(liked_titles, title)))), 1, 3) as varchar[])
            as disliked,
        cast(array_concat(for_it, against) as varchar[]) as related,
        cast(shared as varchar[]) as attributes,
        cast(coalesce(categories, cast(make_array() as varchar[])) as varchar[]) as categories
    from evidence
)
select
    t.example_id,
    t.user_id,
    t.item_id,
    $interval_start as as_of,
    t.event_timestamp,
    t.label,
    t.sampled,
    p.history,
    t.subject,
    t.liked,
    t.disliked,
    t.related,
    t.attributes,
    t.categories,
    example_prompt(
        'pair', t.subject, 'mixed', t.liked, t.disliked, t.related, t.attributes, cast(make_array() as varchar[]))
        as prompt_text,
    '<think>' as answer_stem
from typed as t
join past as p on p.example_id = t.example_id
order by t.example_id
