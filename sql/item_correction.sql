-- What became of tonight's item reasons by the choices of [correct] item_choices: one row per item of tonight that was chosen
-- for.
--
-- A choice counts from the end of the interval that has chosen on: no earlier night may know it. It is about the item and not
-- about its question, which changes with every title that goes along. A rewrite is held against tonight's evidence; where the
-- checks refuse it the night's own reason stands. item_embedding.sql and item_feature.sql take what is
-- rewritten or the evidence from here.
select
    cast(c.item_id as varchar) as item_id,
    $as_of as as_of,
    cast(p.prompt_key as varchar) as prompt_key,
    cast(case
        when c.chosen = 'reason' then 'kept'
        when c.chosen = 'evidence' then 'evidence'
        when r.accepted then 'rewritten'
        else 'refused'
    end as varchar) as correction,
    cast(case when c.chosen = 'rewrite' and r.accepted then c.reason end as varchar) as reason,
    cast(case when c.chosen = 'rewrite' and r.accepted then r.score end as double) as score,
    cast(case when c.chosen = 'rewrite' then r.refusal end as varchar) as refusal,
    c.from_end,
    cast(c.gain_of_choosing_half as double) as gain_of_choosing_half,
    cast(c.gain_of_confirming_half as double) as gain_of_confirming_half,
    cast(c.events as bigint) as n_events
from item_choice as c
join reason_prompt as p on p.item_id = c.item_id
left join item_rewrite as r on r.item_id = c.item_id
where p.kind = 'item' and c.from_end <= $as_of
order by item_id
