-- Which items go with an item, for item_audience.sql and pair_evidence.sql: one row per active item, or candidate of
-- tonight's pairs, with such evidence, from the latest $max_pair_events opinions of each user, so that the number of pairs
-- stays bounded. Never published.
--
--   pmi(a, b) = ln(n_both * n_users / (n_a * n_b))      over users who liked a, b, both; n_users liked anything
--   co_consumed: n_both >= $min_support and pmi > 0, best five by pmi * n_both / (n_both + 10), which keeps chance
--     meetings of two rare items from winning
--   contrast(a, b) = z of the difference between two shares: likers of a who like b against dislikers of a who like b
--   liker_also: contrast > 0, liked by $min_support of a's likers
--   disliker_prefers: contrast < 0, liked by $min_support of a's dislikers
-- All of them come from whole numbers alone, so no result depends on the order of the work.
--
-- Memory: there may be billions of pairs of opinions and hundreds of millions of pairs of items. They are made from
-- rows sorted by item, so that they are counted one item after the other. The left side of a join is held in memory: it
-- is always the smaller one.
with liker_total as (
    select cast(count(*) as double) as n_users
    from (select user_id from opinion where liked and recency <= $max_pair_events group by user_id)
),
likes as (
    select o.user_id, array_agg(t.item_no) as item_nos
    from item_taste as t
    join opinion as o on o.item_id = t.item_id
    where o.liked and o.recency <= $max_pair_events
    group by o.user_id
),
-- Opinions on these items, sorted by item: that is what the window is for.
pick as (
    select user_id, item_no, liked
    from (
        select o.user_id, t.item_no, o.liked, row_number() over (partition by t.item_no order by o.user_id) as place
        from item_taste as t
        join opinion as o on o.item_id = t.item_id
        where (t.is_active or t.is_candidate) and o.recency <= $max_pair_events
    )
    where place > 0
),
pair as (
    select
        a_no,
        b_no,
        cast(count(*) filter (where liked) as double) as likers_both,
        cast(count(*) filter (where not liked) as double) as dislikers_both
    from (
        select p.item_no as a_no, p.liked, unnest(l.item_nos) as b_no
        from likes as l
        join pick as p on p.user_id = l.user_id
    )
    where a_no <> b_no
    group by a_no, b_no
    having count(*) filter (where liked) >= $min_support or count(*) filter (where not liked) >= $min_support
),
taste as (
    select
        t.item_no,
        cast(t.n_likers as double) as n_likers,
        cast(t.n_dislikers as double) as n_dislikers,
        t.title is not null as is_titled,
        u.n_users
    from liker_total as u
    cross join item_taste as t
),
measured as (
    select
        p.a_no,
        p.b_no,
        p.likers_both,
        p.dislikers_both,
        b.is_titled,
        case when p.likers_both >= $min_support
            then ln(p.likers_both * a.n_users / (a.n_likers * b.n_likers)) end as pmi,
        case when a.n_likers > 0 and a.n_dislikers > 0
                and p.likers_both + p.dislikers_both < a.n_likers + a.n_dislikers
            then (p.likers_both / a.n_likers - p.dislikers_both / a.n_dislikers)
                / sqrt(
                    (p.likers_both + p.dislikers_both) / (a.n_likers + a.n_dislikers)
                    * (1 - (p.likers_both + p.dislikers_both) / (a.n_likers + a.n_dislikers))
                    * (1 / a.n_likers + 1 / a.n_dislikers))
            end as contrast
    from taste as b
    right join (taste as a right join pair as p on p.a_no = a.item_no) on p.b_no = b.item_no
),
-- Three ways to rank a pair: 1 co_consumed, 2 liker_also, 3 disliker_prefers.
scored as (
    select
        a_no,
        b_no,
        likers_both,
        pmi,
        way,
        case way
            when 1 then case when pmi > 0 then pmi * likers_both / (likers_both + 10) end
            when 2 then case when contrast > 0 and likers_both >= $min_support and is_titled then contrast end
            else case when contrast < 0 and dislikers_both >= $min_support and is_titled then - contrast end
        end as score
    from (
        select a_no, b_no, likers_both, dislikers_both, is_titled, pmi, contrast, unnest(make_array(1, 2, 3)) as way
        from measured
    )
),
ranked as (
    select
        a_no,
        b_no,
        likers_both,
        pmi,
        way,
        row_number() over (partition by a_no, way order by score desc, b_no) as place
    from scored
    where score is not null
),
listed as (
    select
        r.a_no,
        array_agg(b.item_id order by r.way, r.place) filter (where r.way = 1) as ids,
        array_agg(b.title order by r.way, r.place) filter (where r.way = 1) as titles,
        array_agg(r.likers_both order by r.way, r.place) filter (where r.way = 1) as likers,
        array_agg(r.pmi order by r.way, r.place) filter (where r.way = 1) as pmis,
        array_agg(b.title order by r.way, r.place) filter (where r.way = 2) as liker_also,
        array_agg(b.title order by r.way, r.place) filter (where r.way = 3) as disliker_prefers
    from item_taste as b
    join ranked as r on r.b_no = b.item_no
    where r.place <= 5
    group by r.a_no
)
select
    cast(t.item_id as varchar) as item_id,
    -- Put together here and not while grouping, where each struct would hold on to a whole batch.
    array_slice(
        make_array(
            named_struct(
                'item_id', cast(r.ids[1] as varchar),
                'title', cast(r.titles[1] as varchar),
                'n_both', cast(r.likers[1] as bigint),
                'pmi', cast(r.pmis[1] as double)),
            named_struct(
                'item_id', cast(r.ids[2] as varchar),
                'title', cast(r.titles[2] as varchar),
                'n_both', cast(r.likers[2] as bigint),
                'pmi', cast(r.pmis[2] as double)),
            named_struct(
                'item_id', cast(r.ids[3] as varchar),
                'title', cast(r.titles[3] as varchar),
                'n_both', cast(r.likers[3] as bigint),
                'pmi', cast(r.pmis[3] as double)),
            named_struct(
                'item_id', cast(r.ids[4] as varchar),
                'title', cast(r.titles[4] as varchar),
                'n_both', cast(r.likers[4] as bigint),
                'pmi', cast(r.pmis[4] as double)),
            named_struct(
                'item_id', cast(r.ids[5] as varchar),
                'title', cast(r.titles[5] as varchar),
                'n_both', cast(r.likers[5] as bigint),
                'pmi', cast(r.pmis[5] as double))),
        1, cast(coalesce(cardinality(r.ids), 0) as bigint)) as co_consumed,
    coalesce(array_distinct(r.liker_also), cast(make_array() as varchar[])) as liker_also,
    coalesce(array_distinct(r.disliker_prefers), cast(make_array() as varchar[])) as disliker_prefers
from item_taste as t
join listed as r on r.a_no = t.item_no
order by item_id
