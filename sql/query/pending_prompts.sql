-- One row per prompt that is asked (see asked_prompts.sql) and that no response without an error exists for, by key.
-- Reads reason_prompt and response. No parameters.
select p.prompt_key, min(p.prompt_text) as prompt_text, min(p.answer_stem) as answer_stem
from reason_prompt as p
left anti join (select prompt_key from response where error is null) as r on r.prompt_key = p.prompt_key
where
    p.subject is not null
    or coalesce(cardinality(p.liked), 0) + coalesce(cardinality(p.disliked), 0)
        + coalesce(cardinality(p.related), 0) + coalesce(cardinality(p.attributes), 0)
        + coalesce(cardinality(p.content), 0) + coalesce(cardinality(p.praise), 0)
        + coalesce(cardinality(p.fault), 0) + coalesce(cardinality(p.keywords), 0) > 0
group by p.prompt_key
order by p.prompt_key
