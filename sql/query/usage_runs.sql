-- The ids of all different runs that have asked a prompt of reason_prompt.
-- Apart from usage.sql because a job's own contract of response may lack the column.
-- Reads response and reason_prompt. No parameters.
select distinct r.run_id
from response as r
left semi join reason_prompt as p on p.prompt_key = r.prompt_key
where r.run_id is not null
