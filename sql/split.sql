-- Which part of a global temporal split every interaction stands in: the same cuts as recommend::split::temporal.
--
-- $train_quantile of all events lie before the moment test_from, $valid_quantile of those before valid_from; a cut is a
-- moment of the log, and events at a cut stand after it. What is fitted may use the part 'train' alone. Ratings play no
-- role here.
with placed as (
    select event_timestamp, row_number() over (order by event_timestamp) as place, count(*) over () as n
    from interaction
),
test_cut as (
    select min(event_timestamp) as test_from
    from placed
    where place = cast(floor(cast(n as double) * $train_quantile) as bigint) + 1
),
placed_before as (
    select event_timestamp, row_number() over (order by event_timestamp) as place, count(*) over () as n
    from interaction
    cross join test_cut
    where event_timestamp < test_from
),
valid_cut as (
    select min(event_timestamp) as valid_from
    from placed_before
    where place = cast(floor(cast(n as double) * $valid_quantile) as bigint) + 1
),
parted as (
    select
        user_id,
        item_id,
        event,
        event_timestamp,
        case
            when event_timestamp < valid_from then 'train'
            when event_timestamp < test_from then 'valid'
            else 'test'
        end as part,
        min(event_timestamp) over (partition by item_id) >= valid_from as cold
    from interaction
    cross join test_cut
    cross join valid_cut
)
select
    cast(user_id as varchar) as user_id,
    cast(item_id as varchar) as item_id,
    cast(event as varchar) as event,
    event_timestamp,
    part,
    cold,
    -- Events of the user at the same moment have the same rank: what is known is strictly before it.
    cast(rank() over (partition by user_id order by event_timestamp) - 1 as bigint) as n_before,
    row_number() over (partition by user_id, part order by event_timestamp, item_id, event nulls last) = 1
        as first_of_part,
    row_number() over (
        partition by user_id, part order by event_timestamp desc, item_id desc, event desc nulls first) = 1
        as last_of_part
from parted
order by event_timestamp, user_id, item_id, event nulls last
