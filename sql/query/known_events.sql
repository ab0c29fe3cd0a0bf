-- One row: how many events there are, and how many of them have an item that has a row in `item`.
-- Reads interaction and item. No parameters.
select count(*) as n, count(i.item_id) as known
from interaction as e
left join (select distinct item_id from item) as i on i.item_id = e.item_id
