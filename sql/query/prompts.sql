-- One row per row of reason_prompt, for counting.
-- Reads reason_prompt. No parameters.
select 1 as one
from reason_prompt
