-- The accepted reasons of one kind, by the id of what they are about: the item of an item reason, else the user.
-- Reads the published reason and reason_score. Parameters: $kind; $dt, the interval's partition.
select case when r.kind = 'item' then r.item_id else r.user_id end as id, r.reason
from reason as r
join reason_score as s
    on (s.dt is not distinct from r.dt)
    and (s.kind is not distinct from r.kind)
    and (s.user_id is not distinct from r.user_id)
    and (s.item_id is not distinct from r.item_id)
where r.kind = $kind and r.dt = $dt and s.accepted
order by id
