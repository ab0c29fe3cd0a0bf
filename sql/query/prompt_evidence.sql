-- The evidence of one kind's prompts, by the id of what they are about: the item of an item prompt, else the user.
-- Reads the published reason_prompt. Parameters: $kind; $dt, the interval's partition.
select
    case when kind = 'item' then item_id else user_id end as id,
    subject,
    attributes,
    liked,
    related,
    disliked
from reason_prompt
where kind = $kind and dt = $dt
order by id
