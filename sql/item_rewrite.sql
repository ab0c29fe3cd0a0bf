-- What item_rewrite is scored from: the rewrites among the choices that count tonight, each with the evidence of its item.
-- Checks and score are not SQL's work.
--
-- A choice counts from the end of the interval that has chosen on (item_correction.sql has the same condition).
select
    c.item_id,
    c.reason,
    cast(null as varchar) as error,
    c.finish,
    c.logprob_sum,
    coalesce(c.completion_tokens, 0) as completion_tokens,
    p.subject,
    p.verdict,
    p.liked,
    p.disliked,
    p.related,
    p.attributes,
    p.content,
    p.praise,
    p.fault,
    p.keywords
from item_choice as c
join reason_prompt as p on p.item_id = c.item_id
where p.kind = 'item' and c.chosen = 'rewrite' and c.from_end <= $as_of
order by c.item_id
