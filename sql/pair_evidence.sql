-- What speaks for an item to a user, for reason_prompt.sql: one row per pair of tonight (pair_candidate.sql), from events
-- before $as_of alone. Never published.
--
--   subject, content, praise, fault, keywords, tellers   the item's, as its own prompt has them (item_content.sql,
--            item_voice.sql), whether or not the item is asked about tonight
--   related  at most three titles that the user likes and that go with the item (co_consumed of item_pair.sql), the
--            strongest first
--   liked    four titles that the user likes: those of related, then the latest of $history_events
--   disliked two: the worst-rated
--   attributes   at most three categories of the item among the five commonest of what the user likes. What has a label
--            says nothing of the user, and is left out
-- All that the user ever did before $as_of counts, whether or not tonight has a history of the user. No title is that of
-- the item, and none is both liked and disliked.
with liked as (
    select user_id, array_distinct(array_agg(title order by place)) as titles
    from (
        select user_id, title, row_number() over (partition by user_id order by recency) as place
        from pair_opinion
        where liked and title is not null
    )
    where place <= $history_events
    group by user_id
),
disliked as (
    select user_id, array_distinct(array_agg(title order by place)) as titles
    from (
        select user_id, title, row_number() over (partition by user_id order by rating, recency) as place
        from pair_opinion
        where not liked and title is not null
    )
    where place <= $history_events
    group by user_id
),
category_top as (
    select user_id, array_agg(category order by place) as categories
    from (
        select user_id, category, row_number() over (partition by user_id order by n desc, category) as place
        from (
            select user_id, category, count(*) as n
            from (select user_id, unnest(array_distinct(categories)) as category from pair_opinion where liked)
            where category is not null and trim(category) <> ''
            group by user_id, category
        )
    )
    where place <= 5
    group by user_id
),
company as (
    select item_id, other['item_id'] as other_id, place
    from (
        select
            item_id,
            unnest(co_consumed) as other,
            unnest(range(1, cast(cardinality(co_consumed) + 1 as bigint))) as place
        from item_pair
        where cardinality(co_consumed) > 0
    )
),
going as (
    select user_id, item_id, array_agg(title order by place, title) as titles
    from (
        select c.user_id, c.item_id, m.title, min(g.place) as place
        from pair_candidate as c
        join company as g on g.item_id = c.item_id
        join pair_opinion as m on m.user_id = c.user_id and m.item_id = g.other_id
        where m.liked and m.title is not null
        group by c.user_id, c.item_id, m.title
    )
    group by user_id, item_id
),
listed as (
    select
        c.user_id,
        c.item_id,
        t.title,
        t.categories,
        array_slice(
            array_except(coalesce(g.titles, cast(make_array() as varchar[])), make_array(t.title)), 1, 3) as related,
        coalesce(l.titles, cast(make_array() as varchar[])) as liked,
        coalesce(d.titles, cast(make_array() as varchar[])) as disliked,
        coalesce(k.categories, cast(make_array() as varchar[])) as top_categories
    from pair_candidate as c
    join item_taste as t on t.item_id = c.item_id
    left join going as g on g.user_id = c.user_id and g.item_id = c.item_id
    left join liked as l on l.user_id = c.user_id
    left join disliked as d on d.user_id = c.user_id
    left join category_top as k on k.user_id = c.user_id
)
select
    cast(p.user_id as varchar) as user_id,
    cast(p.item_id as varchar) as item_id,
    $as_of as as_of,
    cast(p.title as varchar) as subject,
    array_slice(array_concat(p.related, array_except(p.liked, array_append(p.related, p.title))), 1, 4) as liked,
    array_slice(
        array_except(p.disliked, array_append(array_concat(p.related, p.liked), p.title)), 1, 2) as disliked,
    p.related,
    array_slice(array_except(p.categories, array_except(p.categories, p.top_categories)), 1, 3) as attributes,
    coalesce(c.content, cast(make_array() as varchar[])) as content,
    coalesce(v.praise, cast(make_array() as varchar[])) as praise,
    coalesce(v.fault, cast(make_array() as varchar[])) as fault,
    coalesce(v.keywords, cast(make_array() as varchar[])) as keywords,
    coalesce(v.tellers, cast(make_array() as varchar[])) as tellers
from listed as p
left join item_content as c on c.item_id = p.item_id
left join item_voice as v on v.item_id = p.item_id
order by user_id, item_id
