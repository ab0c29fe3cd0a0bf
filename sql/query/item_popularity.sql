-- How many users met each item before the interval, in no order. Every user and item counts, so these are all items of
-- item_audience with its `n_users`, without what is costly there.
-- Reads opinion. No parameters.
select item_id, count(*) as n_users
from opinion
group by item_id
