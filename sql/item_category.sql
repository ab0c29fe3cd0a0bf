-- Which categories go with an item, for item_audience.sql: one row per active item with such evidence, from the latest
-- $max_pair_events opinions of each user. Never published.
--
-- What else the likers and the dislikers of an item like, by category, the item itself left out: the best three by the
-- contrast (item_pair.sql) between likers' and dislikers' shares of a category, with $min_support of the former. All
-- come from whole numbers alone, so no result depends on the order of the work.
with user_category as (
    select user_id, array_agg(category) as categories, array_agg(n) as ns
    from (
        select user_id, category, count(*) as n
        from (
            select o.user_id, unnest(array_distinct(t.categories)) as category
            from item_taste as t
            join opinion as o on o.item_id = t.item_id
            where o.liked and o.recency <= $max_pair_events
        )
        where category is not null and trim(category) <> ''
        group by user_id, category
    )
    group by user_id
),
-- Opinions on the active items, sorted by item: that is what the window is for.
pick as (
    select user_id, item_no, liked
    from (
        select o.user_id, t.item_no, o.liked, row_number() over (partition by t.item_no order by o.user_id) as place
        from item_taste as t
        join opinion as o on o.item_id = t.item_id
        where t.is_active and o.recency <= $max_pair_events and o.liked is not null
    )
    where place > 0
),
category_sum as (
    select
        item_no,
        category,
        sum(case when liked then n else 0 end) as likers_n,
        sum(case when liked then 0 else n end) as dislikers_n
    from (
        select p.item_no, p.liked, unnest(u.categories) as category, unnest(u.ns) as n
        from user_category as u
        join pick as p on p.user_id = u.user_id
    )
    group by item_no, category
),
category_count as (
    select
        c.item_no,
        c.category,
        -- Each liker has counted the item itself.
        cast(case when array_has(t.categories, c.category) then c.likers_n - t.n_likers else c.likers_n end as double)
            as likers_n,
        cast(c.dislikers_n as double) as dislikers_n
    from item_taste as t
    join category_sum as c on c.item_no = t.item_no
),
-- A window over whole items would hold all of them at once.
category_share as (
    select
        item_no,
        unnest(categories) as category,
        unnest(likers_ns) as likers_n,
        unnest(dislikers_ns) as dislikers_n,
        likers_total,
        dislikers_total
    from (
        select
            item_no,
            array_agg(category) as categories,
            array_agg(likers_n) as likers_ns,
            array_agg(dislikers_n) as dislikers_ns,
            sum(likers_n) as likers_total,
            sum(dislikers_n) as dislikers_total
        from category_count
        group by item_no
    )
),
category_contrast as (
    select
        item_no,
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
    select item_no, array_agg(category order by place) as liked_categories
    from (
        select
            item_no,
            category,
            row_number() over (partition by item_no order by contrast desc, category) as place
        from category_contrast
        where contrast > 0
    )
    where place <= 3
    group by item_no
)
select cast(t.item_id as varchar) as item_id, c.liked_categories
from item_taste as t
join category_top as c on c.item_no = t.item_no
order by item_id
