-- Which items the nights so far have had, and what the catalogue said of them then: tonight's and, from the newest earlier
-- night, all others. So the next night finds the items that are new or have changed by reading one night back.
with tonight as (
    select item_id, content_key
    from item_taste
    where is_active and content_key is not null
),
earlier as (
    select k.item_id, k.content_key
    from (select max(as_of) as as_of from earlier_item_known) as newest
    join earlier_item_known as k on k.as_of = newest.as_of
)
select cast(item_id as varchar) as item_id, $as_of as as_of, cast(content_key as varchar) as content_key
from (
    select item_id, content_key from tonight
    union all
    select e.item_id, e.content_key
    from earlier as e
    left anti join tonight as t on t.item_id = e.item_id
)
order by item_id
