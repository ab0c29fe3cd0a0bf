-- Who picks an item, after what: one row per item of tonight (item_taste.sql), from events before
-- $as_of alone. What the columns mean stands where they are made: item_taste.sql, item_pair.sql, item_category.sql.
select
    cast(t.item_id as varchar) as item_id,
    $as_of as as_of,
    cast(t.title as varchar) as title,
    cast(t.n_events as bigint) as n_events,
    cast(t.n_users as bigint) as n_users,
    cast(t.n_likes as bigint) as n_likes,
    cast(t.n_dislikes as bigint) as n_dislikes,
    cast(t.mean_rating as double) as mean_rating,
    t.categories,
    coalesce(
        p.co_consumed,
        arrow_cast(
            make_array(),
            'List(Struct("item_id": Utf8, "title": Utf8, "n_both": Int64, "pmi": Float64))')) as co_consumed,
    coalesce(p.liker_also, cast(make_array() as varchar[])) as liker_also,
    coalesce(p.disliker_prefers, cast(make_array() as varchar[])) as disliker_prefers,
    coalesce(c.liked_categories, cast(make_array() as varchar[])) as liked_categories
from item_taste as t
left join item_pair as p on p.item_id = t.item_id
left join item_category as c on c.item_id = t.item_id
where t.is_active
order by item_id
