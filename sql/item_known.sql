-- Which items the nights so far have had, and what the catalogue said of them then: tonight's and, from the newest earlier
-- night, all others. It is cumulative, so the next night finds what is new or has changed by reading this one alone.
with tonight as (
    select item_id, content_key
    from item_taste
    where is_active and content_key is not null
)
select cast(item_id as varchar) as item_id, $as_of as as_of, cast(content_key as varchar) as content_key
from (
    select item_id, content_key from tonight
    union all
    select e.item_id, e.content_key
    from earlier_item_known as e
    left anti join tonight as t on t.item_id = e.item_id
)
order by item_id
