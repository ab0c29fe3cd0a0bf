-- One row per rewrite that no response without an error exists for, by key.
-- Reads correction_prompt and response. No parameters.
select p.prompt_key, min(p.prompt_text) as prompt_text, min(p.answer_stem) as answer_stem
from correction_prompt as p
left anti join (select prompt_key from response where error is null) as r on r.prompt_key = p.prompt_key
group by p.prompt_key
order by p.prompt_key
