-- The rows of small segments of the response store that are kept when the segments are merged, each once, in no order:
-- every answer, and the failed attempts at prompts that nobody has answered.
-- Reads response (the whole store) and small (the segments to merge). No parameters.
select s.*
from small as s
where s.error is null
union
select s.*
from small as s
left anti join (
    select prompt_key
    from response
    where error is null and text is not null
) as a on a.prompt_key = s.prompt_key
where s.error is not null
