-- The keys of all different prompts that were asked and have failed. An answer in a broken format is no failure, but an
-- answer.
-- Reads reason. No parameters.
select distinct prompt_key
from reason
where error not in ('not_generated', 'bad_format')
