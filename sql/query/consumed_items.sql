-- How many users met each item, by item.
-- Reads opinion. No parameters.
select item_id, count(*) as n_users
from opinion
group by item_id
order by item_id
