-- Reasons that tonight and the version before both have, and how many of them are the same to the letter.
-- Reads reason and before_reason. No parameters.
select count(*) as common, count(*) filter (where r.reason = b.reason) as same
from reason as r
join before_reason as b
    on (b.kind is not distinct from r.kind)
    and (b.user_id is not distinct from r.user_id)
    and (b.item_id is not distinct from r.item_id)
where r.reason is not null and b.reason is not null
