-- Which accepted reasons of the newest day have the highest and the lowest score? Five each of every kind.
-- Reads reason_score and reason. No parameters. `curec explain` shows what a score is made of.
with ranked as (
    select
        s.kind,
        s.user_id,
        s.item_id,
        s.score,
        s.grounding,
        s.n_words,
        r.reason,
        row_number() over (partition by s.kind order by s.score desc, s.prompt_key, s.user_id, s.item_id) as from_best,
        -- The same order from its other end, so that equal scores name no row twice.
        row_number() over (
            partition by s.kind order by s.score, s.prompt_key desc, s.user_id desc, s.item_id desc) as from_worst
    from reason_score as s
    join reason as r
        on (r.kind is not distinct from s.kind)
        and (r.user_id is not distinct from s.user_id)
        and (r.item_id is not distinct from s.item_id)
        and (r.as_of is not distinct from s.as_of)
        and (r.dt is not distinct from s.dt)
    where s.accepted and s.dt = (select max(dt) from reason_score)
)
select
    kind,
    case when from_best <= 5 then 'best' else 'worst' end as which,
    score,
    grounding,
    n_words,
    user_id,
    item_id,
    reason
from ranked
where from_best <= 5 or from_worst <= 5
order by kind, from_best
