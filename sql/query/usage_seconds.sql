-- One row: seconds that were spent on the prompts of reason_prompt, whichever run spent them, failed attempts included.
-- Apart from usage.sql because a job's own contract of response may lack the column.
-- Reads response and reason_prompt. No parameters.
select sum(seconds) as seconds
from (
    select r.prompt_key, sum(r.seconds) as seconds
    from response as r
    left semi join reason_prompt as p on p.prompt_key = r.prompt_key
    group by r.prompt_key
)
