-- Pairs of items that a user has met both of, with their weights in millionths: of the latest $max_events items of a user each pair
-- gets one over their number, so that who met much does not decide alone. Whole numbers, so that no sum depends on the order.
-- Reads opinion. Parameters: $max_events.
with latest as (
    select user_id, item_id, count(*) over (partition by user_id) as n
    from opinion
    where recency <= $max_events
),
shared as (
    select user_id, item_id, 1000000 / n as weight
    from latest
    where n > 1
)
select a.item_id as item_id, b.item_id as other_id, cast(sum(a.weight) as bigint) as weight
from shared as a
join shared as b on a.user_id = b.user_id
where a.item_id < b.item_id
group by a.item_id, b.item_id
having sum(a.weight) > 0
order by item_id, other_id
