-- How the likes of tonight's users are spread over categories. A product counts in each of its categories.
with counted as (
    select user_id, category, count(*) as n_likes
    from (
        select o.user_id, unnest(array_distinct(cast(i.categories as varchar[]))) as category
        from item as i
        join opinion as o on o.item_id = i.item_id
        where o.liked
    )
    where category is not null and trim(category) <> ''
    group by user_id, category
),
summed as (
    select user_id, sum(n_likes) as n_all
    from counted
    group by user_id
)
select
    cast(c.user_id as varchar) as user_id,
    cast(c.category as varchar) as category,
    cast(c.n_likes as bigint) as n_likes,
    cast(c.n_likes as double) / cast(s.n_all as double) as share
from user_history as h
join counted as c on c.user_id = h.user_id
join summed as s on s.user_id = h.user_id
order by user_id, category
