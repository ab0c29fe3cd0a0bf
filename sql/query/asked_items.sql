-- Every item that a job asked about, by id: the evidence of its prompt, with the reason or the error that came of it;
-- both are null where `reason` has no such row.
-- Reads the published reason_prompt and reason. Parameter: $dt, the interval's partition.
select
    p.item_id,
    p.subject,
    p.answer_stem,
    p.attributes,
    p.liked,
    p.related,
    p.disliked,
    r.reason,
    r.error
from reason_prompt as p
left join reason as r on r.kind = p.kind and r.item_id = p.item_id and r.dt = p.dt
where p.kind = 'item' and p.dt = $dt
order by p.item_id
