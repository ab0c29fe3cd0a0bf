-- What the users of tonight's pairs (pair_candidate.sql) thought of the items that they had met by then: their rows of
-- opinion.sql, with what the items are called. Never published. The left side of a join is held in memory.
select
    cast(o.user_id as varchar) as user_id,
    cast(o.item_id as varchar) as item_id,
    cast(o.rating as float) as rating,
    o.liked,
    cast(o.recency as bigint) as recency,
    cast(t.title as varchar) as title,
    t.categories
from item_taste as t
join (
    select o.user_id, o.item_id, o.rating, o.liked, o.recency
    from (select user_id from pair_candidate group by user_id) as c
    join opinion as o on o.user_id = c.user_id
) as o on o.item_id = t.item_id
order by user_id, item_id
